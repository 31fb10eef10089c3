#!/bin/bash
# A storage host of the test: what systemd, the distribution and Pacemaker's resource agents do on a
# real one.
#
#	storage.sh boot                    what the host is when it has booted
#	storage.sh start|stop NAME         starts or stops one resource of the group
#	storage.sh cluster                 starts Corosync and Pacemaker
#	storage.sh disk TARGET             makes /dev/sdb: "linear /dev/ubda 0", or "error", which fails
#	storage.sh fence-peer              is the handler of DRBD, which has the other host fenced
#
# Installed as /usr/lib/ocf/resource.d/lab/NAME it is the resource agent ocf:lab:NAME, which stands
# in for systemd:NAME in a guest without systemd. The settings are in /run/ha.env.
set -u
. /run/ha.env # HA_DIR, on the host; HA_BIN; HA_ENGINE; HA_SCOPE, or nothing; HA_ADDRESS
host=$(hostname)
logs=$HA_DIR/$host
pool=/srv/btrfs
agent=$HA_BIN/btrfs-nfs-agent

# A host's own settings. /etc and its directories are links to those of the machine that the guest runs on.
boot() {
	set -e
	mkdir -p "$logs/exports.d" $pool /var/lib/btrfs /var/lib/drbd /run/drbd
	mount -t tmpfs -o mode=755 nfs /var/lib/nfs
	mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery
	touch /var/lib/nfs/etab /var/lib/nfs/rmtab
	mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
	mkdir -p /run/rpc_pipefs
	mount --bind /var/lib/nfs/rpc_pipefs /run/rpc_pipefs
	mount -t nfsd nfsd /proc/fs/nfsd
	mount --bind "$logs/exports.d" /etc/exports.d
	mkdir -p /etc/nfs.conf.d
	mount -t tmpfs -o mode=755 nfs.conf.d /etc/nfs.conf.d
	printf '[mountd]\nmanage-gids=n\nno-netlink=y\n' >/etc/nfs.conf.d/btrfs-nfs-csi.conf
	printf '[nfsd]\nvers3=n\nvers4.0=n\nvers4.1=y\nvers4.2=y\n' >>/etc/nfs.conf.d/btrfs-nfs-csi.conf
	cp "$HA_DIR/btrfs-nfs-ha.conf" /etc/nfs.conf.d/
	mount -t tmpfs -o mode=755 drbd.d /etc/drbd.d
	printf 'global { usage-count no; }\n' >/etc/drbd.d/global_common.conf
	cp "$HA_DIR/btrfs.res" /etc/drbd.d/btrfs.res
	/lab/bin/modprobe -a drbd dm-mod
	disk "linear /dev/ubda 0"
	ln -s mapper/sdb /dev/sdb
}

disk() {
	export DM_DISABLE_UDEV=1 # there is none
	table="0 $(cat /sys/class/block/ubda/size) $1"
	dmsetup create sdb --table "$table" 2>/dev/null && return
	dmsetup load sdb --table "$table"
	dmsetup suspend --nolockfs --noflush sdb
	dmsetup resume sdb
}

# Programs are put into layers over the machine's own directories.
layer() {
	mkdir -p "/run/layer$1/upper" "/run/layer$1/work"
	mount -t overlay -o "lowerdir=$1,upperdir=/run/layer$1/upper,workdir=/run/layer$1/work" layer "$1"
}

cluster() {
	set -e
	/lab/bin/modprobe overlay
	layer /usr/lib/ocf/resource.d
	layer /usr/sbin
	mkdir /usr/lib/ocf/resource.d/lab
	for unit in nfsdcld nfs-server btrfs-nfs-server btrfs-nfs-agent; do
		cp "$HA_DIR/storage.sh" "/usr/lib/ocf/resource.d/lab/$unit"
	done
	cp "$HA_DIR/storage.sh" /usr/sbin/fence_ipmilan
	mkdir -p /var/lib/corosync /var/log/corosync /var/log/cluster /var/log/crmsh /var/log/pacemaker /run/crm /run/resource-agents
	mkdir -p /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/blackbox /var/lib/pacemaker/cores
	chown -R hacluster:haclient /var/lib/pacemaker /var/log/pacemaker /run/crm
	mount -t tmpfs -o mode=755 corosync /etc/corosync
	cp "$HA_DIR/corosync.conf" /etc/corosync/
	cat "$HA_DIR/hosts" /etc/hosts >/run/hosts
	mount --bind /run/hosts /etc/hosts
	corosync
	until_done corosync-cfgtool -s >/dev/null
	setsid pacemakerd -f </dev/null >>"$logs/pacemakerd.log" 2>&1 &
}

# The fence device is the test, which takes requests as files.
fence() {
	touch "$HA_DIR/fence-$1.request"
	until_done test -e "$HA_DIR/fence-$1.done"
}

# 7 tells DRBD that the peer is off (drbd.conf(5), fencing).
fence_peer() {
	if [ "$host" = alpha ]; then fence beta; else fence alpha; fi && exit 7
	exit 1
}

# A fence agent reads its parameters (FenceAgentAPI.md of fence-agents).
fence_agent() {
	while read -r line; do
		case $line in
		action=*) action=${line#*=} ;;
		ip=10.78.0.201) victim=alpha ;;
		ip=10.78.0.202) victim=beta ;;
		esac
	done
	case $action in
	metadata)
		cat <<-END
			<?xml version="1.0" ?>
			<resource-agent name="fence_ipmilan" shortdesc="The test's"><longdesc>The test's</longdesc><parameters>
			<parameter name="action"><content type="string" default="reboot"/></parameter>
			<parameter name="ip"><content type="string"/></parameter><parameter name="username"><content type="string"/></parameter>
			<parameter name="password"><content type="string"/></parameter><parameter name="lanplus"><content type="boolean"/></parameter>
			</parameters><actions><action name="off"/><action name="reboot"/><action name="monitor"/><action name="metadata"/></actions>
			</resource-agent>
		END
		;;
	off | reboot) fence "$victim" ;;
	esac
}

# settings runs a program with the settings of the agent.
settings() { (
	set -a
	. "$HA_DIR/agent.env"
	"$@"
); }

# nfsd starts the NFS server as the drop-in of install.sh does. Without HA_SCOPE its scope is the name of the host. On a busy
# machine nfsdcld may be too late for it: see recorded.
nfsd() {
	scope=$host
	[ -z "$HA_SCOPE" ] || scope=$(settings "$agent" nfs scope --env-file /dev/null)
	for _ in $(seq 20); do
		unshare --uts sh -c 'hostname "$0" && exec "$@"' "$scope" rpc.nfsd || return
		if recorded; then return; fi
		rpc.nfsd 0
	done
	return 1
}

# The kernel waits a second for nfsdcld, and removes its pipe where it does without.
recorded() { [ -e /run/rpc_pipefs/nfsd/cld ]; }

# until_done polls for a minute.
until_done() {
	for _ in $(seq 600); do
		"$@" && return
		sleep 0.1
	done
	return 1
}

# A resource agent has the name of its program, and pidof leaves scripts out.
runs() { pidof "$1" >/dev/null; }
gone() { ! runs "$1"; }
end() { gone "$1" || { kill "$(pidof "$1")" && until_done gone "$1"; }; }

drbd_start() { until_done drbdadm primary btrfs; }
drbd_stop() { drbdadm secondary btrfs; }

pool_start() { mount -o noatime /dev/drbd0 $pool; }
pool_stop() { until_done umount $pool; }

nfsdcld_start() { nfsdcld; }
nfsdcld_stop() { end nfsdcld; }
nfsdcld_runs() { runs nfsdcld; }

ready() {
	exec 3<>/dev/tcp/127.0.0.1/8080 || return 1
	printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
	read -r _ code _ <&3
	exec 3>&-
	[ "$code" = 200 ]
} 2>/dev/null
agent_start() {
	settings setsid "$agent" serve </dev/null >>"$logs/agent.log" 2>&1 &
	for _ in $(seq 15); do # minutes, TimeoutStartSec= of the unit
		until_done ready && return
	done
	return 1
}
agent_stop() { end btrfs-nfs-agent; }
agent_runs() { runs btrfs-nfs-agent; }

# With the kernel engine the agent starts the server. The unit of docs/two-hosts.md only stops it.
server_start() {
	if [ "$HA_ENGINE" = kernel ]; then
		touch /run/server
		return
	fi
	rpc.mountd && { exportfs -r || true; } && nfsd
}

# records prints which clients may reclaim at the next start, for the log of a test that loses a lock.
records() {
	db=$pool/nfsdcld/main.sqlite
	echo "$host: grace period over: $(cat /proc/fs/nfsd/v4_end_grace); epochs of nfsdcld: $(sqlite3 -readonly $db 'select * from grace')"
	for table in $(sqlite3 -readonly $db .tables); do
		case $table in
		rec-*) echo "$host: $table: $(sqlite3 -readonly $db "select id from \"$table\"" | paste -sd,)" ;;
		esac
	done
}
server_stop() {
	if [ "$HA_ENGINE" = kernel ]; then
		"$agent" nfs stop && rm /run/server
		return
	fi
	rpc.nfsd 0
	exportfs -au
	exportfs -f
	end rpc.mountd
}
server_runs() {
	if [ "$HA_ENGINE" = kernel ]; then
		[ -e /run/server ]
	else
		[ "$(cat /proc/fs/nfsd/threads)" -gt 0 ]
	fi
}

address() {
	OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=address OCF_RESKEY_ip=$HA_ADDRESS OCF_RESKEY_cidr_netmask=24 \
		/usr/lib/ocf/resource.d/heartbeat/IPaddr2 "$1"
}
address_start() { address start; }
address_stop() { address stop; }

if [ "$(basename "$0")" = fence_ipmilan ]; then
	action=${2:-}
	fence_agent
	exit
fi
action=$1
name=${2:-$(basename "$0")}
case $name in
btrfs-nfs-agent) name=agent ;;
nfs-server | btrfs-nfs-server) name=server ;;
esac
case $action in
boot | cluster) "$action" ;;
disk) disk "$2" ;;
fence-peer) fence_peer ;;
meta-data)
	cat <<-END
		<?xml version="1.0"?>
		<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
		<resource-agent name="$name"><version>1.0</version>
		<longdesc lang="en">A unit</longdesc><shortdesc lang="en">A unit</shortdesc><parameters/>
		<actions><action name="start" timeout="60s"/><action name="stop" timeout="60s"/>
		<action name="monitor" timeout="20s" interval="20s"/><action name="meta-data" timeout="5s"/></actions>
		</resource-agent>
	END
	;;
monitor) "${name}_runs" || exit 7 ;; # OCF_NOT_RUNNING
start | stop)
	# Pacemaker may ask for what is so already.
	if [ $# = 1 ] && { [ "$action" = start ] && "${name}_runs" || [ "$action" = stop ] && ! "${name}_runs"; }; then
		exit 0
	fi
	[ "$name $action" != "server stop" ] || records
	began=$(date +%s%3N)
	"${name}_$action" >&2
	code=$?
	echo "$host: $action $name: $code after $(($(date +%s%3N) - began)) ms"
	exit $code
	;;
esac
