#!/usr/bin/env bash
# etcd 3.7.3: etcd_server_request_duration_seconds counts writes that timed out as success="true".
#
# The metric takes the outcome from a variable that is not set where a write runs out of time after it was proposed.
#
# Seen: a leader of two whose other member has just been closed; a put with a deadline of 300 ms times out, and the metric
# is compared before and after.
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
	github.com/prometheus/client_golang v1.23.2
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
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// start begins member "a" or "b" of a cluster of both.
func start(dir, name string, port int) *embed.Etcd {
	config := embed.NewConfig()
	config.Name, config.Dir, config.LogLevel = name, filepath.Join(dir, name), "panic"
	local := func(port int) []url.URL { return []url.URL{{Scheme: "unix", Host: fmt.Sprintf("localhost:%d", port)}} }
	config.ListenClientUrls, config.AdvertiseClientUrls = local(port), local(port)
	config.ListenPeerUrls, config.AdvertisePeerUrls = local(port+1), local(port+1)
	config.InitialCluster = "a=unix://localhost:1,b=unix://localhost:3"
	// Long, so that the leader still leads when the put comes.
	config.ElectionMs = 2000
	return must(embed.StartEtcd(config))
}

// puts is how many puts ended in this way.
func puts(success string) (count uint64) {
	for _, family := range must(prometheus.DefaultGatherer.Gather()) {
		if family.GetName() != "etcd_server_request_duration_seconds" {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, pair := range metric.GetLabel() {
				labels[pair.GetName()] = pair.GetValue()
			}
			if labels["type"] == "Put" && labels["success"] == success {
				count += metric.GetHistogram().GetSampleCount()
			}
		}
	}
	return count
}

func main() {
	members := []*embed.Etcd{start(os.Args[1], "a", 0), start(os.Args[1], "b", 2)}
	for _, member := range members {
		<-member.Server.ReadyNotify()
	}
	leader, other := members[0], members[1]
	if other.Server.Leader() == other.Server.MemberID() {
		leader, other = other, leader
	}
	client := v3client.New(leader.Server)
	must(client.Put(context.Background(), "k", "v"))
	other.Close()
	before := [2]uint64{puts("true"), puts("false")}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := client.Put(ctx, "k", "v")
	after := [2]uint64{puts("true"), puts("false")}
	fmt.Printf("a put ends with: %v\n", err)
	fmt.Printf("success=\"true\" rose by %d, success=\"false\" by %d\n", after[0]-before[0], after[1]-before[1])
	if err == nil || after[0] == before[0] || after[1] != before[1] {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
	// Without closing the leader: it would wait for the other one.
}
GO
export GOFLAGS=-mod=mod GOWORK=off
go mod tidy >/dev/null 2>&1
go run . "$tmp/data"
