#!/bin/busybox sh
# The initramfs of a lab environment: loads the drivers, finds the disk it came from by its MBR signature, and hands over.
# Once there is a /proc the shell finds busybox's programs in itself: no names of them are needed.
export PATH=/bin
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko"; done </modules/order

read -r arguments </proc/cmdline
signature=${arguments#*lab.disk=}
signature=${signature%% *}
tries=0
root=
while [ -z "$root" ] && [ "$tries" -lt 50 ]; do
  for disk in /sys/block/*; do
    name=${disk##*/}
    found=$(dd if="/dev/$name" bs=1 skip=440 count=4 2>/dev/null | xxd -p)
    [ "$found" = "$signature" ] || continue
    for part in "/dev/${name}2" "/dev/${name}p2"; do [ -b "$part" ] && root=$part; done
  done
  [ -n "$root" ] || usleep 100000
  tries=$((tries + 1))
done
if [ -z "$root" ] || ! mount -t ext4 "$root" /disk; then
  echo "LAB-FAIL no root file system on a disk with signature $signature" >/dev/ttyS0
  exec sleep 2147483647
fi
mount --move /dev /disk/dev
mount --move /sys /disk/sys
mount --move /proc /disk/proc
exec /bin/busybox switch_root /disk /sbin/init
