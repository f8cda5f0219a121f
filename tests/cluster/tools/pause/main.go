// Command pause holds a pod's namespaces open: it waits to be told to go, and collects the dead.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		// With a shared process namespace this is process 1, and orphans become its children.
		for {
			if dead, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != nil || dead <= 0 {
				break
			}
		}
	}
}
