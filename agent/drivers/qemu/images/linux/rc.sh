#!/bin/sh
# Brings a lab environment up: seed, addresses, web page, marker. Runs once a boot, before the console.
# A process takes an emulated processor some 10 ms: what the shell can do is done by the shell.
export PATH=/bin HOME=/root
echo 1 >/proc/sys/kernel/printk
mount -a
. /etc/lab-env
read -r arguments </proc/cmdline
# Sets "value" to that of the last argument of this name.
argument() {
  value=
  set -f
  for word in $arguments; do case $word in "$1"=*) value=${word#*=} ;; esac; done
  set +f
}

# The seed is what the boot server wrote for this machine between partition table and first partition: a line that says how
# many bytes follow, then name=value lines, an empty line, and the user data.
while read -r device place type _; do [ "$place $type" = "/ ext4" ] && disk=${device%2}; done </proc/mounts
dd if="${disk%p}" bs=512 skip=64 count=128 2>/dev/null | {
  read -r word length
  [ "$word" = "BITVISOR-SEED" ] && head -c "$length" >/run/seed
}
hostname=lab
instance=
if [ -s /run/seed ]; then
  {
    while IFS= read -r line && [ -n "$line" ]; do
      case $line in
        hostname=*) hostname=${line#*=} ;;
        instance=*) instance=${line#*=} ;;
        ssh-key=*) echo "${line#*=}" ;;
      esac
    done >"$HOME/.ssh/authorized_keys"
    cat >/run/user-data
  } </run/seed
fi
echo "$hostname" >/proc/sys/kernel/hostname
# As cloud-init does it: a script in the user data runs once for each instance.
done_for=
[ -s /var/lib/instance ] && read -r done_for </var/lib/instance
if [ -s /run/user-data ] && [ "$done_for" != "$instance" ]; then
  case $(head -c 2 /run/user-data) in '#!') chmod 700 /run/user-data && (cd "$HOME" && /run/user-data >/var/log/user-data 2>&1) ;; esac
  echo "$instance" >/var/lib/instance
fi

ip link set lo up
data=
has_carrier() { carrier=0; { read -r carrier <"$1/carrier"; } 2>/dev/null; [ "$carrier" = 1 ]; }
for link in /sys/class/net/e*; do ip link set "${link##*/}" up; done
# The first port with a cable: the control port has none while a hypervisor mediates, and would be waited for in vain.
tries=0
while [ -z "$data" ] && [ "$tries" -lt 20 ]; do
  for link in /sys/class/net/e*; do has_carrier "$link" && data=${link##*/} && break; done
  [ -n "$data" ] || usleep 20000
  tries=$((tries + 1))
done
mac=none
address=none
if [ -n "$data" ]; then
  read -r mac <"/sys/class/net/$data/address"
  argument lab.ip
  address=$value
  # Without an address of its own: one that follows from the port's MAC address.
  if [ -z "$address" ]; then
    argument lab.net
    end=${mac#*:*:*:*:}
    address="${value:-10.99}.$((0x${end%:*})).$((0x${end#*:}))/16"
  fi
  ip address add "$address" broadcast + dev "$data"
  argument lab.gateway
  [ -z "$value" ] || ip route add default via "$value"
fi
echo "$data" >/run/data-port
read -r boot_id </proc/sys/kernel/random/boot_id
echo "env=$ENVIRONMENT
release=$RELEASE
mac=$mac
ip=${address%/*}
hostname=$hostname
instance=$instance
boot-id=$boot_id
args=$arguments" >/run/info
httpd -h /www -p 80
button=
for name in /sys/class/input/event*/device/name; do
  read -r what <"$name" && [ "$what" = "Power Button" ] && button=${name#/sys/class/input/} && break
done
argument lab.acpi
if [ "$value" != ignore ] && [ -n "$button" ]; then
  (exec 3<"/dev/input/${button%%/*}" && : >/run/button && dd bs=24 count=1 <&3 >/dev/null 2>&1 && poweroff) &
fi
read -r uptime _ </proc/uptime
echo "LAB-UP env=$ENVIRONMENT mac=$mac ip=${address%/*} uptime=$uptime args=$arguments" >/dev/ttyS0
