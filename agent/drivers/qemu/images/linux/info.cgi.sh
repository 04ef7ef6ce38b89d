#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
cat /run/info
echo "uptime=$(cut -d' ' -f1 /proc/uptime)"
