"""A long campaign against damage and interruptions, apart from the tests: ``make test-campaign``."""
