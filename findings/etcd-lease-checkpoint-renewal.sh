#!/usr/bin/env bash
# etcd 3.7.3: a lease that was checkpointed ends long before the time that its renewal is answered with, once its member
# runs without the feature LeaseCheckpoint.
#
# A checkpoint notes the remaining time of a lease. A renewal removes the note only while the feature is on; otherwise
# each renewal extends the lease by the noted time, but the answer names the whole time. TimeToLive shows the real time.
#
# Seen: a lease of 60 s is checkpointed each second until 50 s or less remain; after a restart without the feature it is
# renewed, and its remaining time asked for. (The interval between checkpoints, five minutes, cannot be configured; it
# is shortened here by reflection.)
# Package: go.etcd.io/etcd/server/v3 and client/v3, v3.7.3.
set -euo pipefail
command -v go >/dev/null || { echo "this needs go in PATH" >&2; exit 2; }
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
cd "$tmp"
cat >go.mod <<'MOD'
module finding

go 1.24

require (
	go.etcd.io/etcd/client/v3 v3.7.3
	go.etcd.io/etcd/pkg/v3 v3.7.3
	go.etcd.io/etcd/server/v3 v3.7.3
)
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"time"
	"unsafe"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const granted = 60

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func start(dir, features string) (*embed.Etcd, *clientv3.Client) {
	config := embed.NewConfig()
	config.Dir, config.LogLevel = dir, "panic"
	config.ListenClientUrls = []url.URL{{Scheme: "unix", Host: "localhost:0"}}
	config.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: "localhost:1"}}
	if features != "" {
		if err := config.ServerFeatureGate.(featuregate.MutableFeatureGate).Set(features); err != nil {
			panic(err)
		}
	}
	server := must(embed.StartEtcd(config))
	<-server.Server.ReadyNotify()
	return server, v3client.New(server.Server)
}

func checkpointEachSecond(server *embed.Etcd) {
	lessor := reflect.ValueOf(server.Server).Elem().FieldByName("lessor").Elem().Elem()
	*(*time.Duration)(unsafe.Pointer(lessor.FieldByName("checkpointInterval").UnsafeAddr())) = time.Second
}

func main() {
	ctx := context.Background()
	server, client := start(os.Args[1], "LeaseCheckpoint=true,LeaseCheckpointPersist=true")
	checkpointEachSecond(server)
	lease := must(client.Grant(ctx, granted)).ID
	for must(client.TimeToLive(ctx, lease)).TTL > 50 {
		time.Sleep(time.Second)
	}
	server.Close()
	server, client = start(os.Args[1], "")
	defer server.Close()
	renewed := must(client.KeepAliveOnce(ctx, lease)).TTL
	remaining := must(client.TimeToLive(ctx, lease)).TTL
	fmt.Printf("granted: %d s; the renewal is answered with %d s, and %d s remain\n", granted, renewed, remaining)
	if renewed != granted || remaining > 55 {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
export GOFLAGS=-mod=mod GOWORK=off
go mod tidy >/dev/null 2>&1
go run . "$tmp/data"
