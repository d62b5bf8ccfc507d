# `just` lists these; https://just.systems

python := ".venv/bin/python"

# Make .venv with everything for development.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -c constraints.txt -e '.[dev]'

# Run the tests; arguments go to pytest.
test *args:
    .venv/bin/pytest -n auto --dist loadfile {{args}}

# Check style, types and the direction of imports.
lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/lint-imports

# Put right what can be put right by itself.
fix:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Write anew what the documentation says of commands, settings and the API, and deploy/env.example.
docs:
    {{python}} -m tests.unit.test_cli_docs
    {{python}} -m tests.unit.test_settings_docs
    {{python}} -m tests.unit.test_api_docs
    {{python}} -m tests.unit.test_deploy

# Run one of benchmarks/, as in `just bench search --queries 600`; its first lines say what it takes.
bench name *args:
    {{python}} -m benchmarks.{{name}} {{args}}

# Look for known vulnerabilities (asks the network), and write the bill of materials to sbom.json.
audit:
    {{python}} -m cyclonedx_py environment --output-reproducible --of JSON -o sbom.json {{python}}
    {{python}} -m pip_audit --skip-editable --vulnerability-service osv
