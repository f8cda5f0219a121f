// Command probe is what the tests run in pods to see that a cluster works.
//
//	probe serve ADDRESS DIR   serve DIR's files over HTTP, until told to go
//	probe get URL [PATIENCE]  print what URL answers; ends with 1 when it does not, having asked
//	                          again for PATIENCE (like 30s; by default once), 5 s each time
//	probe store URI DIR       write URI into DIR/uri, as a KServe storage initializer would a model
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "serve":
		return serve(args[1], args[2])
	case len(args) == 2 && args[0] == "get":
		return get(args[1])
	case len(args) == 3 && args[0] == "get":
		return getPatiently(args[1], args[2])
	case len(args) == 3 && args[0] == "store":
		return os.WriteFile(filepath.Join(args[2], "uri"), []byte(args[1]), 0o644)
	}
	return errors.New("usage: probe serve ADDRESS DIR | get URL [PATIENCE] | store URI DIR")
}

func serve(address, dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server := &http.Server{Addr: address, Handler: http.FileServer(http.Dir(dir))}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.Background())
	}()
	fmt.Println("serving", dir, "at", address)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func get(url string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func getPatiently(url, patience string) error {
	wait, err := time.ParseDuration(patience)
	if err != nil {
		return err
	}
	for until := time.Now().Add(wait); ; time.Sleep(200 * time.Millisecond) {
		if err := get(url); err == nil || time.Now().After(until) {
			return err
		}
	}
}
