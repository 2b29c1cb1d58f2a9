"""What a training step will need on chips that are not here: compiled ahead of time for TPUs, estimated for CUDA."""

from jdistill.plan.topology import Topology, parse_topology, topology_devices

__all__ = ["Topology", "parse_topology", "topology_devices"]
