"""flashrl-registry: declarative plans that run RL rollouts in 8 bits inside vLLM.

``checkpoint pair -> Profile -> Plan -> Registry -> ResolvedPlan -> vLLM``. Importing this package imports neither
torch nor vllm.
"""

__version__ = "0.1.0"
