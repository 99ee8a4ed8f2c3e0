"""`python -m coentro.helper` is `coentro-helper`."""

from coentro.helper.main import main

if __name__ == "__main__":
    main()
