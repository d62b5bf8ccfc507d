"""Exit 0 when a URL answers 200 within two seconds: a health check for images without curl."""

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 2.0

if __name__ == "__main__":
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=TIMEOUT_S) as response:
            sys.exit(0 if response.status == 200 else 1)
    except (OSError, urllib.error.URLError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
