#!/usr/bin/env bash
# etcd 3.7.3: RangeStream with a sort target and no sort order leaves keys out and sends others twice.
#
# RangeStream refuses sort orders, but takes a sort target with the order NONE for the default. Each message of the
# stream is then sorted by the target, as Range sorts (NONE with a target other than KEY means ascending), and the next
# message begins after the last key of the sorted message, which need not be its greatest key.
#
# Seen: 40 keys whose values fall while the keys rise; the stream with target VALUE is compared with the one without.
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
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const keys = 40

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func seen(client *clientv3.Client, options ...clientv3.OpOption) map[string]int {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	times := map[string]int{}
	stream := must(client.GetStream(ctx, "k", append(options, clientv3.WithPrefix())...))
	for message := range stream {
		if err := message.Err(); err != nil {
			panic(err)
		}
		for _, kv := range message.Kvs {
			times[string(kv.Key)]++
		}
	}
	return times
}

func main() {
	config := embed.NewConfig()
	config.Dir = os.Args[1]
	config.LogLevel = "panic"
	local := []url.URL{{Scheme: "unix", Host: "localhost:0"}}
	config.ListenClientUrls, config.ListenPeerUrls = local, []url.URL{{Scheme: "unix", Host: "localhost:1"}}
	server := must(embed.StartEtcd(config))
	defer server.Close()
	<-server.Server.ReadyNotify()
	inside := v3client.New(server.Server)
	for n := range keys {
		must(inside.Put(context.Background(), fmt.Sprintf("k%02d", n), fmt.Sprintf("%02d", keys-n)))
	}
	client := must(clientv3.New(clientv3.Config{Endpoints: []string{"unix://localhost:0"}}))
	defer client.Close()

	plain := seen(client)
	// The order NONE with a target: WithSort turns it into the request as it stands.
	sorted := seen(client, clientv3.WithSort(clientv3.SortByValue, clientv3.SortNone))
	var missing, repeated int
	for n := range keys {
		switch sorted[fmt.Sprintf("k%02d", n)] {
		case 0:
			missing++
		case 1:
		default:
			repeated++
		}
	}
	fmt.Printf("without a target: %d of %d keys\n", len(plain), keys)
	fmt.Printf("with target VALUE, order NONE: %d keys missing, %d sent more than once\n", missing, repeated)
	if len(plain) != keys || missing+repeated == 0 {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
export GOFLAGS=-mod=mod GOWORK=off
go mod tidy >/dev/null 2>&1
go run . "$tmp/data"
