"""The bill of materials of an environment: what is installed, under which licence, with which locked hashes."""
