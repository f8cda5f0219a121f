// The process that holds a pod's namespaces.
module atelier.dev/cluster/pause

go 1.24.0
