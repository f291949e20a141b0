"""The configuration as a module, for Hydra's ``initialize_config_module("cvae.conf")``."""
