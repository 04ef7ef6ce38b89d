#!/bin/sh
# send-frames SOURCE-MAC DESTINATION-MAC SOURCE-IP DESTINATION-IP COUNT: raw frames out of the data port, with whatever addresses.
# What a tenant's root can do; UDP of 60 bytes, made by the kernel's packet generator, past its own addresses and ARP.
port=$(cat /run/data-port)
[ -d /proc/net/pktgen ] || insmod /lib/modules/pktgen.ko || exit 1
tell() { echo "$2" >"/proc/net/pktgen/$1" || exit 1; }
tell kpktgend_0 rem_device_all
tell kpktgend_0 "add_device $port"
for setting in "count $5" 'pkt_size 60' 'delay 100000' "src_mac $1" "dst_mac $2" "src_min $3" "src_max $3" "dst $4"; do
  tell "$port" "$setting"
done
tell pgctrl start
grep -q '^Result: OK' "/proc/net/pktgen/$port"
