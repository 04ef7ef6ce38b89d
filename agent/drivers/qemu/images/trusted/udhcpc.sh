#!/bin/sh
# Called by udhcpc with an event and what the server offered: address and mask, and a route where there is one.
export PATH=/bin
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" broadcast + dev "$interface"
[ -z "$router" ] || ip route add default via "${router%% *}"
