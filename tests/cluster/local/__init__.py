"""A real one-node Kubernetes on this machine: built, brought up and taken down without a trace.

The node is one process with network, mount and process namespaces of its own. Everything of the
cluster (control plane, containerd, pods, their links, mounts and iptables rules) lives in them, so
the machine's own are never touched, and all of it ends with that process.
"""
