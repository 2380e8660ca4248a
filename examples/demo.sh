#!/bin/sh
# A tour on a sample store, all of it under ./demo: plan, full and incremental
# backup, verify, restore.
# Run it by `make demo`, or from the project's root with bkctl on the PATH.
set -eu

show() {
    printf '\n$ %s\n' "$*"
}

run() {
    show "$@"
    "$@"
}

# The timestamp that make_store printed under a name.
made() {
    awk -v name="$1" '$1 == name { print $2 }' demo/made.txt
}

rm -rf demo
mkdir demo
show python examples/make_store.py demo/store
python examples/make_store.py demo/store >demo/made.txt
cat demo/made.txt
mid=$(made mid_ts)
end=$(made end_ts)

run bkctl ranges --db demo/store --region-map demo/store.regions.json
run bkctl backup --db demo/store --region-map demo/store.regions.json \
    --storage "local://$PWD/demo/repo" --start-ts 0 --end-ts "$mid"
run bkctl backup --db demo/store --region-map demo/store.regions.json \
    --storage "local://$PWD/demo/repo" --start-ts "$mid" --end-ts "$end"
run bkctl list --storage "local://$PWD/demo/repo"
run bkctl verify --storage "local://$PWD/demo/repo" --all --level deep
run bkctl restore latest --storage "local://$PWD/demo/repo" --to demo/restored
run ls demo/restored
