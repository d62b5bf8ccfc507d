"""The pages for people: searching, comparing, operating, models. Nothing comes from other hosts."""
