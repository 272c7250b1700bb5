#!/bin/sh
# How long dd takes for 48 MiB, by the size of its blocks.
set -e

now() { awk '{ print $1 }' /proc/uptime; }

begin=$(now)
dd if=/dev/zero of=/dev/null bs="${block_kib}k" count=$((49152 / block_kib)) 2>/dev/null
end=$(now)
{
    echo metric,value
    echo "seconds,$(awk "BEGIN { print $end - $begin }")"
    echo "bytes,$((block_kib * 1024))"
} >"$remote_dir/ssh-example-results.csv"
