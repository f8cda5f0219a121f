"""Build, start and stop a real one-node Kubernetes on this machine.

The node is one process with its own network, mount and process namespaces. The whole cluster runs
in them: control plane, containerd, pods, and their links, mounts and iptables rules. Those of the
machine are not changed, and everything ends when that process ends.
"""
