#!/bin/busybox sh
# The initramfs of a lab environment: loads the drivers, finds the disk it came from by its MBR signature, and hands over.
# Once there is a /proc the shell finds busybox's programs in itself: no names of them are needed.
export PATH=/bin
/bin/busybox mount -a
read -r module </etc/last-module
modprobe "$module"

read -r arguments </proc/cmdline
signature=${arguments#*lab.disk=}
signature=${signature%% *}
tries=0
root=
while [ -z "$root" ] && [ "$tries" -lt 50 ]; do
  while read -r _ _ _ name; do
    case $name in '' | name) continue ;; esac
    # Partitions have no such place, or something else at it.
    [ "$(xxd -p -s 440 -l 4 "/dev/$name" 2>/dev/null)" = "$signature" ] || continue
    for part in "/dev/${name}2" "/dev/${name}p2"; do [ -b "$part" ] && root=$part && break 2; done
  done </proc/partitions
  [ -n "$root" ] || usleep 100000
  tries=$((tries + 1))
done
if [ -z "$root" ] || ! mount -t ext4 "$root" /disk; then
  echo "LAB-FAIL no root file system on a disk with signature $signature" >/dev/ttyS0
  exec sleep 2147483647
fi
mount --move /dev /disk/dev
mount --move /proc /disk/proc
exec /bin/busybox switch_root /disk /sbin/init
