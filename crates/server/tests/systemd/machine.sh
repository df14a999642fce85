#!/bin/bash
# In namespaces of its own (mount, pid, uts, ipc, cgroup, net): makes DIR the root of a machine on which
# nothing but a node is to run, and becomes its systemd. The programs are this host's /usr.
# Usage: machine.sh DIR NIHILO UNIT CONFIG
set -euo pipefail
root=$1 nihilo=$2 unit=$3 config=$4

mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
cd "$root"
mkdir -p dev etc/nihilo etc/systemd/system/nihilo.service.d mnt opt proc root run sys tmp usr var/lib var/log var/tmp
chmod 1777 tmp var/tmp
for link in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$link" ]; then ln -s "$(readlink "/$link")" "$link"; fi
done
mount --rbind /usr usr
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs tmpfs run
# What is the host's is looked at only: systemd would raise the kernel's limits.
mount -o remount,bind,ro usr
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mount -t tmpfs tmpfs sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi

cp /etc/passwd /etc/group /etc/nsswitch.conf etc
cp -r /etc/ld.so* etc
echo 'nihilo:x:64123:64123::/var/lib/nihilo:/usr/sbin/nologin' >>etc/passwd
echo 'nihilo:x:64123:' >>etc/group
: >etc/machine-id
cp "$config" etc/nihilo/node.yaml
cp "$nihilo" opt/nihilo
# /usr is the host's: the unit as it is shipped, but for where its program lies.
sed 's#/usr/bin/nihilo#/opt/nihilo#' "$unit" >etc/systemd/system/nihilo.service
cat >etc/systemd/system/nihilo.service.d/alone.conf <<'END'
[Unit]
DefaultDependencies=no
After=
Wants=
[Service]
StandardOutput=append:/var/log/nihilo.log
StandardError=inherit
END
cat >etc/systemd/system/alone.target <<'END'
[Unit]
DefaultDependencies=no
Wants=nihilo.service
END

ip link set lo up
pivot_root . mnt
umount -l /mnt
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=alone.target --log-target=console --log-level=notice </dev/null
