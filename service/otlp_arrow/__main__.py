"""``python -m otlp_arrow`` is the command ``otlp-arrow``."""

from otlp_arrow.cli.main import main

if __name__ == "__main__":
    main()
