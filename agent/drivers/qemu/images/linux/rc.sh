#!/bin/sh
# Brings a lab environment up: seed, addresses, web page, marker. Runs once a boot, before the console.
export PATH=/bin HOME=/root
dmesg -n 1
mount -o remount,rw /
mount -t tmpfs tmpfs /run
mount -t devpts devpts /dev/pts 2>/dev/null
. /etc/lab-env
argument() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p" | tail -n 1; }

# The seed is what the boot server wrote for this machine between partition table and first partition: a line that says how
# many bytes follow, then name=value lines, an empty line, and the user data.
disk=$(mount | sed -n 's/^\(.*[a-z0-9]\) on \/ type ext4.*/\1/p' | sed 's/p\{0,1\}2$//')
dd if="$disk" bs=512 skip=64 count=128 2>/dev/null | {
  read -r word length
  [ "$word" = "BITVISOR-SEED" ] && head -c "$length" >/run/seed
}
hostname lab
instance=
if [ -s /run/seed ]; then
  sed '/^$/q' /run/seed >/run/seed-head
  sed '1,/^$/d' /run/seed >/run/user-data
  hostname "$(sed -n 's/^hostname=//p' /run/seed-head)"
  instance=$(sed -n 's/^instance=//p' /run/seed-head)
  mkdir -p "$HOME/.ssh"
  sed -n 's/^ssh-key=//p' /run/seed-head >"$HOME/.ssh/authorized_keys"
fi
# As cloud-init does it: a script in the user data runs once for each instance.
if [ -s /run/user-data ] && [ "$(cat /var/lib/instance 2>/dev/null)" != "$instance" ]; then
  case $(head -c 2 /run/user-data) in '#!') chmod 700 /run/user-data && (cd "$HOME" && /run/user-data >/var/log/user-data 2>&1) ;; esac
  echo "$instance" >/var/lib/instance
fi

ip link set lo up
data=
for link in /sys/class/net/e*; do
  name=${link##*/}
  ip link set "$name" up
  tries=0
  while [ "$(cat "$link/carrier" 2>/dev/null)" != 1 ] && [ "$tries" -lt 10 ]; do usleep 20000; tries=$((tries + 1)); done
  [ -z "$data" ] && [ "$(cat "$link/carrier")" = 1 ] && data=$name
done
mac=none
address=none
if [ -n "$data" ]; then
  mac=$(cat "/sys/class/net/$data/address")
  address=$(argument lab.ip)
  # Without an address of its own: one that follows from the port's MAC address.
  if [ -z "$address" ]; then
    network=$(argument lab.net)
    address="${network:-10.99}.$((0x$(echo "$mac" | cut -d: -f5))).$((0x$(echo "$mac" | cut -d: -f6)))/16"
  fi
  ip address add "$address" broadcast + dev "$data"
  gateway=$(argument lab.gateway)
  [ -z "$gateway" ] || ip route add default via "$gateway"
fi
printf '%s\n' "$data" >/run/data-port
{
  echo "env=$ENVIRONMENT"
  echo "release=$RELEASE"
  echo "mac=$mac"
  echo "ip=${address%/*}"
  echo "hostname=$(hostname)"
  echo "instance=$instance"
  echo "boot-id=$(cat /proc/sys/kernel/random/boot_id)"
  echo "args=$(cat /proc/cmdline)"
} >/run/info
httpd -h /www -p 80
while read -r module; do insmod "/lib/modules/$module.ko"; done </lib/modules/late
button=$(grep -l '^Power Button$' /sys/class/input/event*/device/name | sed -n '1s|.*/\(event[0-9]*\)/.*|/dev/input/\1|p')
if [ "$(argument lab.acpi)" != ignore ] && [ -n "$button" ]; then
  (exec 3<"$button" && : >/run/button && dd bs=24 count=1 <&3 >/dev/null 2>&1 && poweroff) &
fi
echo "LAB-UP env=$ENVIRONMENT mac=$mac ip=${address%/*} uptime=$(cut -d' ' -f1 /proc/uptime)" >/dev/ttyS0
