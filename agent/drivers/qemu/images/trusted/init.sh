#!/bin/busybox sh
# The trusted image of reclaim: everything it has is in this initramfs. It takes jobs from the rack agent over the control port
# and never starts anything of a disk. Protocol: docs/trusted-image.md.
#
# Invariants:
# 1. A disk is reported as wiped only after every block of it was read back as zero, past the page cache.
# 2. Every message carries a MAC under the token of this boot; the token leaves the machine in no other form.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
dmesg -n 1
say() { echo "TRUSTED $*" >/dev/console; }
argument() { tr ' ' '\n' </proc/cmdline | sed -n "s/^bitvisor\.$1=//p" | tail -n 1; }
while read -r module; do insmod "/modules/$module.ko"; done </modules/order
# Nobody looks at it, but a guest that cannot be switched off in order costs time.
while read -r module; do insmod "/modules/$module.ko"; done </modules/late
button=$(grep -l '^Power Button$' /sys/class/input/event*/device/name | sed -n '1s|.*/\(event[0-9]*\)/.*|/dev/input/\1|p')
[ -n "$button" ] && (dd if="$button" of=/dev/null bs=24 count=1 2>/dev/null && poweroff -f) &

say "starting"
agent=$(argument agent)
boot=$(argument boot)
control=$(argument control)

# HMAC-SHA-256 (RFC 2104): the two keys, once.
key=$(argument token)
inner= outer=
while [ -n "$key" ]; do
  rest=${key#??}
  byte=${key%"$rest"}
  inner=$inner$(printf '%02x' $((0x$byte ^ 0x36)))
  outer=$outer$(printf '%02x' $((0x$byte ^ 0x5c)))
  key=$rest
done
while [ ${#inner} -lt 128 ]; do inner=${inner}36 outer=${outer}5c; done
printf '%s' "$inner" | xxd -r -p >/run/inner
printf '%s' "$outer" | xxd -r -p >/run/outer
unset key inner outer
mac() {
  cat /run/inner - | sha256sum | cut -d' ' -f1 | xxd -r -p >/run/digest
  cat /run/outer /run/digest | sha256sum | cut -d' ' -f1
}

# send METHOD PATH: the body from /run/body, the answer into /run/answer. (wget -T crashes in the static busybox of Debian 12.)
send() {
  sum=$({ printf '%s %s\n' "$1" "$2"; cat /run/body; } | mac)
  if [ "$1" = POST ]; then set -- "$@" --post-file /run/body; else set -- "$@" ''; fi
  timeout 60 wget -q -O /run/answer --header "Authorization: BitVisor-MAC $sum" ${3:+"$3"} ${4:+"$4"} "$agent/$boot$2" 2>/run/wget
}
# report PATH: until the agent has it.
report() {
  until send POST "$1"; do sleep 1; done
}
field() { sed -n "s/^$1=//p" /run/answer | head -n 1; }

disks() {
  for disk in /sys/block/*; do
    case ${disk##*/} in vd* | sd* | nvme*) [ "$(cat "$disk/size")" -gt 0 ] && echo "${disk##*/}" ;; esac
  done
}
serial_of() { cat "/sys/block/$1/serial" "/sys/block/$1/device/serial" 2>/dev/null | head -n 1 | sed 's/ *$//'; }
bytes_of() { echo $(($(cat "/sys/block/$1/size") * 512)); }

facts() {
  echo "boot-id=$(cat /proc/sys/kernel/random/boot_id)"
  echo "system-uuid=$(cat /sys/class/dmi/id/product_uuid 2>/dev/null | tr A-Z a-z)"
  echo "cores=$(grep -c ^processor /proc/cpuinfo)"
  echo "memory-kib=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)"
  for name in $(disks); do echo "disk=$name $(bytes_of "$name") $(serial_of "$name")"; done
  for link in /sys/class/net/e*; do
    ip link set "${link##*/}" up
    echo "link=$(cat "$link/address") $(cat "$link/carrier" 2>/dev/null || echo 0)"
  done
  [ -c /dev/tpm0 ] && echo "tpm=2"
}

blank() { cmp -s -n "$(bytes_of "$1")" "/dev/$1" /dev/zero; }
forget_cache() {
  sync
  blockdev --flushbufs "/dev/$1"
  echo 3 >/proc/sys/vm/drop_caches
}
overwrite() {
  dd if=/dev/zero of="/dev/$1" bs=1M count="$(bytes_of "$1")" iflag=count_bytes oflag=direct conv=fsync 2>/run/dd ||
    dd if=/dev/zero of="/dev/$1" bs=64k count="$(bytes_of "$1")" iflag=count_bytes conv=fsync 2>/run/dd
}
# Says what is wrong, or nothing. Quick: the disk drops its blocks where it can, and is overwritten where something is left.
erase() {
  case $2 in
    Quick)
      if [ "$(cat "/sys/block/$1/queue/discard_max_bytes")" -gt 0 ] && blkdiscard "/dev/$1" 2>/run/discard; then
        forget_cache "$1"
        blank "$1" && return
      fi
      ;;
    Full) ;;
    *) echo "this image cannot do $2 on this disk" && return ;;
  esac
  overwrite "$1" || { echo "overwriting failed: $(tail -n 1 /run/dd)" && return; }
  forget_cache "$1"
  blank "$1" || echo "a block did not read back as zero"
}

wipe_job() {
  kind=$(field erase)
  for name in $(disks); do
    wrong=$(erase "$name" "$kind")
    say "wiped $name ($kind): ${wrong:-read back as zero}"
    if [ -z "$wrong" ]; then echo "wiped=$(serial_of "$name")" >/run/body; else echo "failed=$(serial_of "$name"): $wrong" >/run/body; fi
    report "/results/$job"
  done
}
check_job() {
  facts >/run/body
  for name in $(disks); do
    last=$(($(bytes_of "$name") / 1048576 - 1))
    dd if="/dev/$name" of=/dev/null bs=1M count=1 2>/dev/null && dd if="/dev/$name" of=/dev/null bs=1M skip="$last" count=1 2>/dev/null ||
      echo "failed=$(serial_of "$name"): read error" >>/run/body
  done
  report "/results/$job"
}
attest_job() {
  echo "nonce=$(field nonce)" >/run/body
  report "/results/$job"
}
# The verifier makes the commands; the image only carries them to the TPM and back. One write and one read a command; the device
# stays open, because keys and sessions are gone when it is closed.
[ -c /dev/tpmrm0 ] && exec 3<>/dev/tpmrm0
tpm_job() {
  field command | xxd -r -p >/run/command
  dd if=/run/command bs=8192 count=1 2>/dev/null >&3
  echo "response=$(dd bs=8192 count=1 2>/dev/null <&3 | xxd -p | tr -d '\n')" >/run/body
  report "/results/$job"
}
eventlog_job() {
  echo "log=$(base64 /sys/kernel/security/tpm0/binary_bios_measurements | tr -d '\n')" >/run/body
  report "/results/$job"
}

interface=
tries=0
while [ -z "$interface" ] && [ "$tries" -lt 50 ]; do
  for link in /sys/class/net/e*; do [ "$(cat "$link/address")" = "$control" ] && interface=${link##*/}; done
  [ -n "$interface" ] || usleep 100000
  tries=$((tries + 1))
done
ip link set lo up
ip link set "$interface" up
address=$(argument address)
if [ -n "$address" ]; then
  ip address add "$address" dev "$interface"
else
  until udhcpc -i "$interface" -q -n -f -s /udhcpc >/run/udhcpc 2>&1; do say "no address on the control port yet"; done
fi

facts >/run/body
report /up
say "up boot=$boot uptime=$(cut -d' ' -f1 /proc/uptime)"
job=0
while :; do
  : >/run/body
  if ! send GET "/jobs/$job"; then
    sleep 1
    continue
  fi
  next=$(field job)
  [ -n "$next" ] || continue
  job=$next
  kind=$(field kind)
  say "job $job: $kind"
  case $kind in
    attest) attest_job ;;
    wipe) wipe_job ;;
    check) check_job ;;
    tpm) tpm_job ;;
    eventlog) eventlog_job ;;
  esac
  echo "done=$kind" >/run/body
  report "/results/$job"
done
