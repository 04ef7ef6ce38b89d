#!/bin/sh
# answer-dhcp FIRST-IP LAST-IP: answers everybody on the data port who asks for an address, until it is killed. What a rogue guest does.
port=$(cat /run/data-port)
: >/run/leases
printf 'start %s\nend %s\ninterface %s\nlease_file /run/leases\nopt subnet 255.255.0.0\nopt router %s\n' "$1" "$2" "$port" "$1" >/run/udhcpd.conf
exec udhcpd -f /run/udhcpd.conf
