#!/bin/sh
# Installs, upgrades or removes btrfs-nfs-agent on this host: install.sh --help.
set -eu

usage() {
	cat <<'EOF'
install.sh [install|uninstall] [options]

Installs the agent from this directory, or upgrades an installed agent. An upgrade keeps settings and tokens, and refuses options that
contradict them. The script asks before it changes a block device or installs packages.

  --base-path DIR   directory on btrfs that holds the volumes (default: the directory in the settings, otherwise the script asks)
  --device DEV      create a btrfs filesystem on this block device, and mount it at --base-path. The script asks first, and refuses a
                    device that is not empty
  --tenant NAME     name of the first tenant (default: default)
  --engine ENGINE   exportfs or kernel (default: exportfs if an NFS server runs or has other exports, otherwise kernel)
  --older-nfs on|off  exportfs engine: let the NFS server offer NFSv3 and NFSv4.0, which volumes do not need (default: no change, and
                    off at the first installation on a host without other exports)
  --no-start        do not enable and start the agent and the NFS server
  --yes             install packages without a question. It does not confirm --device
  --confirm-device DEV  confirm --device DEV without a question
  --dry-run         print what the script would do, and change nothing
  --purge           uninstall: also remove settings, tokens and the settings of the NFS server. Volumes are never removed
  --root DIR        install below DIR, and start nothing: for packages
EOF
}

here=$(cd "$(dirname "$0")" && pwd)
action=install base= device= confirmed= tenant= engine= older= start=yes yes= dry= purge= root= failed= pool= forget_at=0

while [ $# -gt 0 ]; do
	case $1 in
	install | uninstall) action=$1 ;;
	--base-path) base=${2:?--base-path needs a directory}; shift ;;
	--device) device=${2:?--device needs a device}; shift ;;
	--confirm-device) confirmed=${2:?--confirm-device needs a device}; shift ;;
	--tenant) tenant=${2:?--tenant needs a name}; shift ;;
	--engine) engine=${2:?--engine needs a name}; shift ;;
	--older-nfs) older=${2:?--older-nfs needs on or off}; shift ;;
	--root) root=${2:?--root needs a directory}; start=; shift ;;
	--no-start) start= ;;
	--yes | -y) yes=yes ;;
	--dry-run) dry=yes ;;
	--purge) purge=yes ;;
	-h | --help) usage; exit 0 ;;
	*) echo "install.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
	esac
	shift
done

bin=$root/usr/local/bin/btrfs-nfs-agent
etc=$root/etc/btrfs-nfs-agent
env=$etc/agent.env
unit=$root/etc/systemd/system/btrfs-nfs-agent.service
dropins=$unit.d
nfsconf=$root/etc/nfs.conf.d/btrfs-nfs-csi.conf
scopeconf=$root/etc/systemd/system/nfs-server.service.d/btrfs-nfs-csi-scope.conf
man=$root/usr/local/share/man/man1
bash_completion=$root/usr/local/share/bash-completion/completions/btrfs-nfs-agent
zsh_completion=$root/usr/local/share/zsh/site-functions/_btrfs-nfs-agent
fish_completion=$root/usr/local/share/fish/vendor_completions.d/btrfs-nfs-agent.fish

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

# run does it, or says it.
run() {
	if [ -n "$dry" ]; then say "would run: $*"; else "$@"; fi
}

# write replaces a file by what comes in, at once and only if it differs: write FILE MODE
write() {
	if [ -n "$dry" ]; then
		cat >/dev/null
		say "would write: $1"
		return
	fi
	mkdir -p "$(dirname "$1")"
	temporary=$(mktemp "$1.XXXXXX")
	cat >"$temporary"
	chmod "$2" "$temporary"
	if cmp -s "$temporary" "$1"; then rm "$temporary"; else mv "$temporary" "$1"; fi
}

copy() { write "$2" "$3" <"$1"; }

# ask QUESTION: yes is yes, all else is no; where nobody can be asked it is no.
ask() {
	[ -t 0 ] || return 1
	printf '%s [y/N] ' "$1"
	read -r answer || return 1
	[ "$answer" = y ] || [ "$answer" = yes ]
}

# setting NAME: its value in the settings that are there, as systemd reads it.
setting() {
	[ -r "$env" ] || return 0
	"$here/btrfs-nfs-agent" settings get --env-file "$env" "$1"
}

# environment_value VALUE: as systemd.exec(5) has it in an EnvironmentFile=. A shell reads the same.
environment_value() {
	case $1 in
	*[!A-Za-z0-9/._-]*) printf '"%s"' "$(printf %s "$1" | LC_ALL=C sed 's/[\\"$`]/\\&/g')" ;;
	*) printf %s "$1" ;;
	esac
}

# unit_path PATH: as a unit has it (systemd.syntax(7)), where a per cent sign begins a specifier.
unit_path() { printf '"%s"' "$(printf %s "$1" | LC_ALL=C sed 's/[\\"]/\\&/g; s/%/%%/g')"; }

# fstab_path PATH: as fstab(5) has it.
fstab_path() { printf %s "$1" | LC_ALL=C sed 's/\\/\\134/g; s/ /\\040/g'; }

# agree OPTION GIVEN SETTING HOW: settings that are there stay. Were the host set up by an option that contradicts them, the agent would not fit it.
agree() {
	[ -n "$2" ] && [ -r "$env" ] || return 0
	there=$(setting "$3")
	[ "${2%/}" = "${there%/}" ] || fail "$1 $2 contradicts $3=$there in $env: $4"
}

keep_settings() {
	agree --base-path "$base" AGENT_BASE_PATH "to move the volumes, stop the agent, change that line, and run install.sh again"
	agree --engine "$engine" AGENT_NFS_EXPORTER "to change the engine, run systemctl stop btrfs-nfs-agent, change that line, and run install.sh again (docs/operations/change-engine.md)"
	[ -n "$tenant" ] && [ -r "$env" ] || return 0
	tenants=$(setting AGENT_TENANTS | tr -d ' ')
	file=$(setting AGENT_TENANTS_FILE)
	[ -z "$file" ] || tenants=$(sed 's/^ *//' "$file" | tr '\n' ',')
	case ,$tenants in
	*,"$tenant":*) ;;
	*) fail "--tenant must be a tenant in ${file:-$env}, got $tenant: add $tenant:TOKEN there (btrfs-nfs-agent tenant new $tenant), and run install.sh again" ;;
	esac
}

on_btrfs() { [ -d "$1" ] && [ "$(stat -f -c %T "$1")" = btrfs ]; }

need_root() {
	[ "$(id -u)" = 0 ] || [ -n "$dry" ] || fail "must run as root: sudo $0"
	[ -n "$root" ] || [ -d /run/systemd/system ] || [ -n "$dry" ] || fail "this host does not run systemd: start btrfs-nfs-agent with the service manager of this host and the settings in agent.env"
}

# ---- the pool

choose_base() {
	[ -n "$base" ] || base=$(setting AGENT_BASE_PATH)
	if [ -z "$base" ] && [ -t 0 ]; then
		printf 'Directory on btrfs for the volumes: '
		IFS= read -r base
	fi
	[ -n "$base" ] || fail "--base-path must be set to the directory for the volumes"
}

# check_options refuses what cannot be written, or would not be read back as it is, before anything is changed.
check_options() {
	case /$base/ in
	*/../*) fail "--base-path must not contain .., got $base" ;; # systemd ignores such paths
	esac
	case $tenant in
	*[:,]*) fail "--tenant must be a name without : and ,, got $tenant" ;;
	esac
	case $older in
	"" | on | off) ;;
	*) fail "--older-nfs must be on or off, got $older" ;;
	esac
	env -i "AGENT_BASE_PATH=$base" "AGENT_TENANTS=${tenant:-default}:checked" "AGENT_NFS_EXPORTER=$engine" "$here/btrfs-nfs-agent" settings check ||
		fail "check the options: nothing was changed"
}

prepare_device() {
	[ -n "$device" ] || return 0
	if mountpoint -q "$base"; then
		say "$base is already mounted: $device was left alone"
		return
	fi
	[ -b "$device" ] || fail "--device must be a block device, got $device"
	# 2 is for nothing that it knows, 8 for several things at once (blkid(8)). A partition table alone is no TYPE, and still 0.
	known=$(blkid -p -o value -s TYPE -s PTTYPE "$device" 2>/dev/null) || [ $? = 2 ] || known="data that blkid -p shows"
	[ -z "$known" ] || fail "--device must be empty, got $device with $known: to destroy its content, run wipefs -a $device first"
	grep -qs "^$device " /proc/mounts && fail "--device must not be mounted, got $device"
	if [ -n "$dry" ]; then
		say "would ask, create a btrfs filesystem on $device, and mount it at $base"
		return
	fi
	[ "$confirmed" = "$device" ] || ask "Create a new btrfs filesystem on $device? All data on it is lost." || fail "$device was left alone: a script confirms with --confirm-device $device"
	have mkfs.btrfs || install_packages
	mkfs.btrfs -q -L btrfs-nfs "$device"
	uuid=$(blkid -p -o value -s UUID "$device")
	mkdir -p "$base"
	# A last line without an end would go on in this one.
	[ -z "$(tail -c 1 /etc/fstab)" ] || echo >>/etc/fstab
	# Without the disk the host starts, but for the agent.
	printf 'UUID=%s %s btrfs noatime,nofail 0 0\n' "$uuid" "$(fstab_path "$base")" >>/etc/fstab
	systemctl daemon-reload
	mount "$base"
}

# scope_of_pool prints it. It fails where the settings name a pool, and another filesystem is there: that below the mount point may be btrfs too.
scope_of_pool() {
	env -i AGENT_BASE_PATH="$base" AGENT_POOL_ID="$(setting AGENT_POOL_ID)" AGENT_TENANTS=none:none "$here/btrfs-nfs-agent" nfs scope --env-file /dev/null
}

# is_unmounted: the settings name a pool, and it is not there.
is_unmounted() { [ -n "$(setting AGENT_POOL_ID)" ] && ! scope_of_pool >/dev/null 2>&1; }

check_base() {
	# The passive one of two hosts. Its settings name the pool, without which the agent does not start.
	if [ -z "$start$root" ] && is_unmounted; then
		say "$base is not mounted: the agent starts when it is"
		return
	fi
	if ! on_btrfs "$base"; then
		[ -n "$dry$root" ] && return 0
		# A directory that is to be made on a btrfs that is mounted.
		if [ ! -e "$base" ] && on_btrfs "$(dirname "$base")"; then
			mkdir -m 0755 "$base"
			return
		fi
		fail "--base-path must be on btrfs, got $base: mount the filesystem there, or use an empty block device with --device /dev/DISK"
	fi
}

# ---- the NFS server

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

install_packages() {
	have exportfs && have rpc.nfsd && have btrfs && return 0
	if have apt-get; then set -- apt-get install -y --no-install-recommends nfs-kernel-server btrfs-progs
	elif have dnf; then set -- dnf install -y nfs-utils btrfs-progs
	elif have pacman; then set -- pacman -S --needed --noconfirm nfs-utils btrfs-progs
	elif have zypper; then set -- zypper install -y nfs-kernel-server btrfsprogs
	else fail "install the NFS server (nfs-utils) and btrfs-progs first"; fi
	[ -n "$yes$dry" ] || ask "The NFS server or btrfs-progs is not installed. Run $*?" || fail "install the packages first, or use --yes"
	run "$@"
}

exports_something() {
	cat /etc/exports /etc/exports.d/*.exports 2>/dev/null | grep -v btrfs-nfs-csi | grep -q '^[[:space:]]*[^#[:space:]]'
}

choose_engine() {
	[ -n "$engine" ] || engine=$(setting AGENT_NFS_EXPORTER)
	case $engine in
	exportfs | kernel) return ;;
	"" | auto) ;;
	*) fail "--engine must be exportfs or kernel, got $engine" ;;
	esac
	if exports_something || systemctl is-active -q nfs-server 2>/dev/null; then engine=exportfs; else engine=kernel; fi
}

# choose_versions decides whether the NFS server goes on to offer NFSv3 and NFSv4.0. Clients may use them where it was set up before, or
# where it exports something.
choose_versions() {
	[ -z "$older" ] || return 0
	if grep -qs '^vers3=n' "$nfsconf"; then older=off
	elif [ -e "$nfsconf" ] || exports_something; then older=on
	else older=off; fi
}

manages_groups() { ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q 'auth.unix.gid/channel'; }

# groups_end is called before an rpc.mountd with manage-gids ends and none follows. For 30 s the kernel then waits for one that answers for
# groups (net/sunrpc/cache.c, cache_listeners_exist) and drops requests: mounts that are tried in that time hang for minutes.
groups_end() {
	if manages_groups; then forget_at=$(($(date +%s) + 32)); fi
}

# mountd_is_stale: one runs that manages groups, from before the settings that say otherwise: an installation without a start has left it.
mountd_is_stale() {
	manages_groups && [ -e "$nfsconf" ] || return 1
	since=$(date -d "$(systemctl show -p ActiveEnterTimestamp --value nfs-mountd)" +%s 2>/dev/null) || return 1
	[ "$since" -le "$(stat -c %Y "$nfsconf")" ]
}

# server_command is what nfs-server.service starts, but for write_scope's drop-in.
server_command() {
	systemctl cat nfs-server 2>/dev/null | awk '/^# \// { ours = index($0, "btrfs-nfs-csi-scope.conf") } !ours && /^ExecStart=/ { command = substr($0, 11) } END { print command }'
}

# write_scope has the NFS server start with the scope of the pool: "Server scope" in docs/architecture.md. The kernel takes the host name of
# the process that starts the server. hostname is not installed everywhere, and in a container the file may be read-only.
# The server does without nfsdcld where that takes longer than a second to answer, as on a busy host (nfsd4_cld_tracking_init in
# fs/nfsd/nfs4recover.c), and clients lose their locks. The kernel removes nfsd/cld then, and the drop-in starts the server again.
write_scope() {
	had=$(grep -o 'btrfs-nfs-[0-9a-f]\{8\}-[0-9a-f-]\{27\}' "$scopeconf" 2>/dev/null || true)
	# The passive one of two hosts keeps its scope. The agent says what is wrong with another pool.
	if is_unmounted; then scope=$had
	elif on_btrfs "$base"; then scope=$(scope_of_pool) || fail "read the scope of the NFS server: btrfs-nfs-agent nfs scope failed"
	else scope=; fi # a dry run
	if [ -z "$scope" ]; then
		[ -n "$dry" ] || say "the NFS server gets no scope, because $base is not mounted: copy $scopeconf from the other host, or run install.sh again while it is mounted. Otherwise clients lose their locks"
		return 0
	fi
	command=$(server_command)
	case $command in
	/*) ;;
	*)
		say "systemd has no nfs-server.service: start the NFS server with the scope $scope (docs/installation.md), or clients lose their locks when the pool moves to another host"
		return
		;;
	esac
	old=$(cksum "$scopeconf" 2>/dev/null || true)
	{
		echo "# Written by btrfs-nfs-agent's install.sh: clients keep their locks where the server has the same scope as before."
		printf '[Service]\nExecStart=\nExecStart=/usr/bin/unshare --uts /bin/sh -c '
		printf "'hostname \"\$\$0\" 2>/dev/null || echo \"\$\$0\" >/proc/sys/kernel/hostname; "
		printf 'for start in 1 2 3 4 5 6 7 8 9 10; do "$$@" || exit; [ $$start != 10 ] && systemctl -q is-active nfsdcld || exit 0; '
		printf 'ls /run/rpc_pipefs/nfsd /var/lib/nfs/rpc_pipefs/nfsd 2>/dev/null | grep -qx cld && exit 0; '
		printf "echo 0 >/proc/fs/nfsd/threads; done' %s %s\n" "$scope" "$command"
	} | write "$scopeconf" 644
	[ "$old" != "$(cksum "$scopeconf" 2>/dev/null || true)" ] || return 0
	run systemctl daemon-reload
	[ "$scope" != "$had" ] && systemctl is-active -q nfs-server 2>/dev/null || return 0
	say "the NFS server gets the scope $scope at its next start, and clients lose their locks once at that start (docs/upgrade.md)"
}

set_up_server() {
	[ -z "$root" ] || return 0
	if [ "$engine" = kernel ]; then
		run rm -f "$scopeconf"
		[ -z "$older" ] || fail "--older-nfs needs --engine exportfs: the kernel engine offers NFSv4.1 and 4.2 only"
		# The agent starts the server and answers for it. rpc.mountd would answer against it.
		if systemctl is-active -q nfs-mountd 2>/dev/null || systemctl is-enabled -q nfs-server 2>/dev/null; then
			exports_something && fail "this host exports other directories: use --engine exportfs"
			groups_end
			run systemctl disable --now nfs-server
			run systemctl stop nfs-mountd
		fi
		return
	fi
	write_scope
	before=$(cksum "$nfsconf" 2>/dev/null || true)
	choose_versions
	{
		echo "# Written by btrfs-nfs-agent's install.sh: with manage-gids the server ignores the groups that pods have."
		printf '[mountd]\nmanage-gids=n\n'
		# Only where it is known (nfs-utils 3.1): a changed file restarts the server. See docs/operations/nfs-server.md.
		if PATH=$PATH:/usr/sbin:/sbin rpc.mountd --help 2>&1 | grep -q no-netlink; then echo no-netlink=y; fi
		[ "$older" = on ] || printf '[nfsd]\nvers2=n\nvers3=n\nvers4.0=n\n'
		[ "$(setting AGENT_NFS_MAX_VERSION)" != 4.1 ] || printf '[nfsd]\nvers4.2=n\n'
	} | write "$nfsconf" 644
	if [ "$older" = on ]; then
		say "the NFS server offers NFSv3 and NFSv4.0, which volumes do not need: --older-nfs off turns them off for all exports"
	else
		say "the NFS server offers NFSv4.1 and 4.2 only: --older-nfs on turns on NFSv3 and NFSv4.0 for other exports of this host"
	fi
	run mkdir -p /etc/exports.d
	if [ -z "$start" ]; then
		! mountd_is_stale || say "rpc.mountd still manages groups, until the NFS server is restarted: systemctl restart nfs-server, unless a cluster starts it on this host"
		return
	fi
	run systemctl enable -q nfs-server
	if [ "$before" != "$(cksum "$nfsconf" 2>/dev/null || true)" ] || mountd_is_stale; then
		groups_end
		run systemctl restart nfs-server
	else
		run systemctl start nfs-server
	fi
}

# ---- files

install_files() {
	copy "$here/btrfs-nfs-agent" "$bin" 755
	copy "$here/btrfs-nfs-agent.service" "$unit" 644
	copy "$here/agent.env" "$etc/agent.env.example" 644
	for page in "$here"/man/*.1; do copy "$page" "$man/$(basename "$page")" 644; done
	copy "$here/completions/btrfs-nfs-agent.bash" "$bash_completion" 644
	copy "$here/completions/btrfs-nfs-agent.zsh" "$zsh_completion" 644
	copy "$here/completions/btrfs-nfs-agent.fish" "$fish_completion" 644
	{
		echo "# Written by install.sh: what depends on this host. Your own changes belong in a file of another name."
		echo "[Unit]"
		printf 'RequiresMountsFor=%s\n' "$(unit_path "$base")"
		if [ "$engine" = kernel ]; then
			echo "Wants=proc-fs-nfsd.mount nfsdcld.service"
		else
			# Pacemaker starts the agent before the server, so the agent must not start it.
			echo "[Service]"
			printf 'ReadWritePaths=%s\n' "$(unit_path "$base")"
		fi
	} | write "$dropins/10-host.conf" 644
	if [ "$engine" = exportfs ]; then
		copy "$here/exportfs.conf" "$dropins/20-exportfs.conf" 644
	else
		run rm -f "$dropins/20-exportfs.conf"
	fi
}

new_token() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

install_settings() {
	if [ -e "$env" ]; then
		say "keeping the settings in $env: agent.env.example describes new ones"
		return
	fi
	token=$(new_token)
	[ ${#token} = 64 ] || fail "create a token: /dev/urandom cannot be read"
	init_pool
	while IFS= read -r line; do
		case $line in
		AGENT_BASE_PATH=*) line=AGENT_BASE_PATH=$(environment_value "$base") ;;
		"#AGENT_POOL_ID="*) [ -z "$pool" ] || line=AGENT_POOL_ID=$pool ;;
		AGENT_TENANTS=*) line=AGENT_TENANTS=${tenant:-default}:$token ;;
		"#AGENT_NFS_EXPORTER="*) line=AGENT_NFS_EXPORTER=$engine ;;
		esac
		printf '%s\n' "$line"
	done <"$here/agent.env" | write "$env" 600
	[ -z "$dry" ] || return 0
	[ "$(setting AGENT_BASE_PATH)" = "$base" ] && [ "$(setting AGENT_TENANTS)" = "${tenant:-default}:$token" ] && [ "$(setting AGENT_NFS_EXPORTER)" = "$engine" ] || {
		rm -f "$env"
		fail "write $env: systemd would read other values"
	}
}

# init_pool makes the pool and takes its ID. It comes before the settings: where it fails, the next run is a new installation again.
init_pool() {
	[ -z "$root" ] || return 0
	if [ -n "$dry" ]; then say "would run: btrfs-nfs-agent init"; return; fi
	# The command reads all settings, and refuses to go on without a tenant. This one is not kept.
	pool=$(env -i AGENT_BASE_PATH="$base" AGENT_TENANTS=none:none "$bin" init --env-file /dev/null) || fail "create the pool at $base: btrfs-nfs-agent init failed"
}

# pin_pool is for an upgrade from an agent that gave pools no ID: the one that has just started has.
pin_pool() {
	[ -n "$start" ] && [ -z "$dry$failed$(setting AGENT_POOL_ID)" ] || return 0
	pool=$(cat "$base/.agent/id" 2>/dev/null) || return 0
	say "adding AGENT_POOL_ID=$pool to $env, so that the agent does not start on another filesystem"
	printf '\n# Written by install.sh: see AGENT_POOL_ID in agent.env.example.\nAGENT_POOL_ID=%s\n' "$pool" >>"$env"
}

start_service() {
	[ -n "$root" ] || run systemctl daemon-reload
	[ -n "$start" ] || return 0
	if [ -z "$dry" ] && [ "$(date +%s)" -lt "$forget_at" ]; then
		say "waiting half a minute, until the kernel no longer waits for an rpc.mountd that manages groups"
		while [ "$(date +%s)" -lt "$forget_at" ]; do sleep 1; done
	fi
	run systemctl enable -q btrfs-nfs-agent
	run systemctl restart btrfs-nfs-agent || failed=yes
}

do_install() {
	need_root
	[ -x "$here/btrfs-nfs-agent" ] || fail "find btrfs-nfs-agent in the directory of install.sh: it is missing"
	keep_settings
	choose_base
	choose_engine
	check_options
	prepare_device
	check_base
	[ -n "$root" ] || install_packages
	set_up_server
	install_files
	install_settings
	start_service
	pin_pool
	[ -z "$dry" ] || return 0
	say ""
	say "$("$bin" version) is installed. Volumes: $base, exported by the $engine engine."
	say "The token of the tenant is in $env. Copy it to the secret of the StorageClass."
	[ -n "$start" ] || return 0
	"$bin" doctor || say "Fix what is marked FAIL, then run systemctl restart btrfs-nfs-agent"
	[ -z "$failed" ] || fail "start the agent: it failed, see journalctl -u btrfs-nfs-agent"
}

stop_server() {
	program=$here/btrfs-nfs-agent
	[ -x "$program" ] || program=$bin
	[ -x "$program" ] || return 0
	run "$program" nfs stop || say "the NFS server keeps running with its exports"
}

do_uninstall() {
	need_root
	if [ -z "$root" ]; then
		run systemctl disable -q --now btrfs-nfs-agent || true
		# The kernel engine's server and exports go on without the agent, so that they are taken down before the program goes.
		if [ -n "$purge" ]; then stop_server; fi
	fi
	run rm -f "$bin" "$unit" "$dropins/10-host.conf" "$dropins/20-exportfs.conf" "$scopeconf" "$man"/btrfs-nfs-agent*.1 "$bash_completion" "$zsh_completion" "$fish_completion" "$etc/agent.env.example"
	run rmdir "$dropins" "$(dirname "$scopeconf")" 2>/dev/null || true
	[ -n "$root" ] || run systemctl daemon-reload
	if [ -n "$purge" ]; then
		run rm -f "$env" "$nfsconf" "$root/etc/exports.d/btrfs-nfs-csi.exports"
		run rmdir "$etc" 2>/dev/null || true
		if [ -z "$root" ] && have exportfs; then run exportfs -r || true; fi
	else
		say "keeping $env with the tokens, and the exports: --purge removes both"
	fi
	say "Volumes were not changed."
}

do_$action
