"""Configuration: the registry of components, and the Hydra groups as YAML files."""
