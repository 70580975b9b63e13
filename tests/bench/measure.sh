# Measures servers in turn and prints a block of medians, for the scripts that compare servers of one member. It is
# sourced after servers.sh. The array `sides` has the names of the servers; the last is the one that the others are
# compared with. `rounds` and `keys` are set.

# More options of the load generator, by the address of the server.
declare -A options

# Prints the same as run_h2load.
run_loadgen() { # address, operation, connections, streams, requests, zipf, round
    local more
    read -ra more <<<"${options[$1]:-}"
    "$loadgen" "$1" "$2" connections="$3" streams="$4" requests="$5" keys="$keys" zipf="$6" seed="$7" "${more[@]}"
}

measure() { # title, tool, operation, connections, streams, requests [zipf]
    local round side before_cpu before_disk ticks bytes rate p50 p99
    ticks_per_second=$(getconf CLK_TCK)
    for side in "${sides[@]}"; do : >"$work/$side.rounds"; done
    for ((round = 0; round < rounds; round++)); do
        for side in "${sides[@]}"; do
            before_cpu=$(cpu_ticks "${pid[$side]}")
            before_disk=$(disk_bytes "${pid[$side]}")
            read -r rate p50 p99 _ < <("run_$2" "${address[$side]}" "$3" "$4" "$5" "$6" "${7:-0}" "$round") ||
                fail "$1: no result from $2 against the $side"
            ticks=$(($(cpu_ticks "${pid[$side]}") - before_cpu))
            bytes=$(($(disk_bytes "${pid[$side]}") - before_disk))
            awk -v rate="$rate" -v p50="$p50" -v p99="$p99" -v n="$6" -v ticks="$ticks" -v hz="$ticks_per_second" \
                -v bytes="$bytes" -v rss="$(memory_kb "${pid[$side]}" VmRSS)" \
                'BEGIN { cpu = ticks > 0 ? n / (ticks / hz) : 0
                         printf "%d %.3f %.3f %d %d %d\n", rate, p50 / 1000, p99 / 1000, cpu, bytes / n, rss / 1024 }' \
                >>"$work/$side.rounds"
        done
    done
    local column last=${sides[-1]}
    for side in "${sides[@]}"; do
        for column in 1 2 3 4 5 6; do cut -d ' ' -f $column "$work/$side.rounds" | median; done |
            paste -sd ' ' >"$work/$side.median"
    done
    printf '%s\n' "$1"
    for side in "${sides[@]}"; do
        printf '  %-10s %10s req/s   p50 %8s ms   p99 %8s ms   %9s req/cpu-s   %7s B/req   %5s MB\n' \
            "$side" $(<"$work/$side.median")
    done
    for side in "${sides[@]::${#sides[@]}-1}"; do
        paste -d ' ' "$work/$side.median" "$work/$last.median" | awk -v side="$side" '
            function ratio(a, b) { return b > 0 ? sprintf("%.2f", a / b) : "-" }
            { printf "  %-10s %10s x           %8s          %8s      %9s             %7s         %5s\n", side,
              ratio($1, $7), ratio($2, $8), ratio($3, $9), ratio($4, $10), ratio($5, $11), ratio($6, $12) }'
    done
}
