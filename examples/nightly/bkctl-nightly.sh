#!/bin/sh
# What cron, systemd and Kubernetes run: `bkctl-nightly.sh` every night, `bkctl-nightly.sh verify` weekly.
#
# Store, region map and storage are in bkctl.toml (BKCTL_CONFIG names it) or in BKCTL_… variables.
# Exit code: that of the first command that failed; 6 if another run has the repository's lock.
set -eu

export BKCTL_CONFIG="${BKCTL_CONFIG:-/etc/bkctl/bkctl.toml}"
export BKCTL_LOG_FORMAT="${BKCTL_LOG_FORMAT:-json}"

case "${1:-backup}" in
backup)
    # A run that failed is begun anew rather than resumed: what it left goes with `prune`.
    # Five minutes back, as transactions may still commit below "now".
    bkctl backup --incremental --full-every 7d --end-ts -5m --wait-locks 10m
    bkctl prune --keep-daily 7 --keep-weekly 5
    ;;
verify)
    bkctl verify --level deep
    ;;
*)
    echo "usage: $0 [backup|verify]" >&2
    exit 2
    ;;
esac
