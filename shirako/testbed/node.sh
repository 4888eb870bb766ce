# Makes the namespaces that it runs in into a node, and stays as the node's first process.
# Arguments: the folder of layers, the node's name, its address with prefix length.
# Says its pid as seen from outside, waits for a line (its network cable is there), says "up".
set -eu
name=$2
address=$3

cd "$1"
mount -t overlay overlay -o "lowerdir=node/$name:common:/,upperdir=upper/$name,workdir=work/$name" \
  "root/$name"
# Read before the node's own /proc hides it: the first process has pid 1 in there.
read -r pid _ </proc/self/stat
cd "root/$name"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
# Not chroot: the file system of the machine is to be gone, not only out of sight.
pivot_root . mnt
cd /
umount --no-mtab --lazy /mnt
unset OLDPWD
echo "$name" >/proc/sys/kernel/hostname

echo "$pid"
read -r _
ip -batch - <<EOT
link set lo up
address add $address dev eth0
link set eth0 up
EOT
/etc/node/services </dev/null >/dev/null
echo up
# A shell reaps whatever orphans it is given, also while it waits for a command. `exec` takes the
# words above out of the list of processes.
exec </dev/null >/dev/null 2>&1
exec /bin/sh -c 'while :; do sleep infinity; done'
