#!/usr/bin/env bash
# etcd 3.7.3: RangeStream with a limit and a sort target answers a wrong count.
#
# A message of the stream is sorted by the target and then cut to the limit. The remaining keys are counted from the
# last key of the message on, which need not be its greatest key, so keys that were sent are counted again. Range
# answers the count of all keys in the same case.
#
# Seen: ten keys whose values fall while the keys rise; the count with limit 5 and target VALUE, of RangeStream and of
# Range.
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

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

const keys = 10

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	config := embed.NewConfig()
	config.Dir, config.LogLevel = os.Args[1], "panic"
	config.ListenClientUrls = []url.URL{{Scheme: "unix", Host: "localhost:0"}}
	config.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: "localhost:1"}}
	server := must(embed.StartEtcd(config))
	defer server.Close()
	<-server.Server.ReadyNotify()
	client := must(clientv3.New(clientv3.Config{Endpoints: []string{"unix://localhost:0"}}))
	defer client.Close()
	ctx := context.Background()
	for n := range keys {
		must(client.Put(ctx, fmt.Sprintf("k%d", n), fmt.Sprint(keys-n)))
	}
	options := []clientv3.OpOption{
		clientv3.WithPrefix(), clientv3.WithLimit(5), clientv3.WithSort(clientv3.SortByValue, clientv3.SortNone),
	}
	var streamed int64
	for message := range must(client.GetStream(ctx, "k", options...)) {
		if err := message.Err(); err != nil {
			panic(err)
		}
		streamed = max(streamed, message.Count)
	}
	ranged := must(client.Get(ctx, "k", options...)).Count
	fmt.Printf("%d keys: RangeStream counts %d, Range %d\n", keys, streamed, ranged)
	if streamed == keys || ranged != keys {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
export GOFLAGS=-mod=mod GOWORK=off
go mod tidy >/dev/null 2>&1
go run . "$tmp/data"
