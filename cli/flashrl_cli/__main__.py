"""``python -m flashrl_cli`` is ``flashrl-registry``."""

from flashrl_cli.app import registry_main

registry_main()
