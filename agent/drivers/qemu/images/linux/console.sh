#!/bin/sh
# The command channel on the serial console. "LAB-RUN ID COMMAND" runs COMMAND as root and answers a line "LAB-BEGIN ID", the
# output, and a line "LAB-END ID rc=N". Other lines are ignored.
export PATH=/bin HOME=/root
cd /root || exit 1
stty -echo -opost
echo "LAB-READY"
while read -r word id command; do
  [ "$word" = "LAB-RUN" ] || continue
  echo "LAB-BEGIN $id"
  sh -c "$command" </dev/null 2>&1
  printf '\nLAB-END %s rc=%d\n' "$id" "$?"
done
