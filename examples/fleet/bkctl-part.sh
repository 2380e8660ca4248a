#!/bin/sh
# What cron runs on each store's machine: `bkctl-part.sh` every night, and `bkctl-part.sh seal` on one or more.
#
# Store and storage are in bkctl.toml (BKCTL_CONFIG names it) or in BKCTL_… variables; the region map is the store's.
# Exit code: that of the command; of seal, 2 where another machine has sealed it already.
set -eu

export BKCTL_CONFIG="${BKCTL_CONFIG:-/etc/bkctl/bkctl.toml}"
export BKCTL_LOG_FORMAT="${BKCTL_LOG_FORMAT:-json}"

# The same on all machines, whenever they start within the hour.
end="$(date -u +%Y-%m-%dT%H:00:00Z)"
name="fleet-$(date -u +%Y%m%d)"

case "${1:-part}" in
part)
    bkctl backup --part --region-map store --name "$name" --end-ts "$end" \
        --incremental --full-every 7d --wait 30m --wait-locks 10m
    ;;
seal)
    bkctl seal "$name"
    ;;
*)
    echo "usage: $0 [part|seal]" >&2
    exit 2
    ;;
esac
