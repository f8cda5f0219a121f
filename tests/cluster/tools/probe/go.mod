// A workload for the tests: something that serves, asks and writes.
module atelier.dev/cluster/probe

go 1.24.0
