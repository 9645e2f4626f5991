#!/usr/bin/env bash
# A real schema registry (Apicurio, in memory) on the loopback, from Maven artefacts alone. Needs bash, curl, tar, java >= 17, and mvn on first use.
#
#   registry.sh start  [--dir D] [--port P]   prints the base URL of its Confluent API
#   registry.sh stop   [--dir D] [--wipe]     TERM, then KILL; only the pid that D recorded
#   registry.sh status [--dir D]              exit 1 unless it is up
#   registry.sh fetch                         only fill the cache (offline from then on)
#
# Everything is under D: log, pid, url. KAFKA_KIT_CACHE: where the archive is kept. REGISTRY_HEAP: heap (256m).
# Version 3.0.9 is the last line that runs on Java 17; 3.3 needs 21.
set -euo pipefail

version=3.0.9
lib=${KAFKA_KIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kafka-kit}/apicurio-$version
dir=${TMPDIR:-/tmp}/hookferry-registry port='' wipe=''

die() { echo "registry.sh: $*" >&2; exit 1; }

# The archive is fetched alone: as a normal dependency its parents do not resolve.
fetch() {
	[ -f "$lib/.complete" ] && return
	mkdir -p "$lib"
	local artifact=io.apicurio:apicurio-registry-app:$version:tar.gz:all
	mvn -B -q dependency:get -Dartifact=$artifact -Dtransitive=false >&2
	mvn -B -q dependency:copy -Dartifact=$artifact -DoutputDirectory="$lib" -Dmdep.useBaseVersion=true >&2
	tar -xzf "$lib/apicurio-registry-app-$version-all.tar.gz" -C "$lib"
	rm "$lib/apicurio-registry-app-$version-all.tar.gz"
	touch "$lib/.complete"
}

pid_of() { # prints the pid if it is alive and is ours
	local pid; pid=$(cat "$dir/pid" 2>/dev/null) && grep -qsF "hookferry.registry=$dir" "/proc/$pid/cmdline" && echo "$pid"
}

free_port() { # below the ephemeral range, so that no outgoing connection takes it meanwhile
	local p
	while p=$((15000 + RANDOM % 15000)); do (: <"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }; done
}

start() {
	fetch
	if pid_of >/dev/null; then cat "$dir/url"; return; fi
	mkdir -p "$dir"
	port=${port:-$(free_port)}
	local jar; jar=$(find "$lib" -name "apicurio-registry-app-$version-runner.jar" | head -1)
	[ -n "$jar" ] || die "no runner jar below $lib: remove that folder and fetch again"
	QUARKUS_HTTP_HOST=127.0.0.1 QUARKUS_HTTP_PORT=$port \
		nohup java -Xmx"${REGISTRY_HEAP:-256m}" "-Dhookferry.registry=$dir" -jar "$jar" >"$dir/log" 2>&1 </dev/null &
	echo $! >"$dir/pid"
	local url=http://127.0.0.1:$port/apis/ccompat/v7
	echo "$url" >"$dir/url"
	for _ in $(seq 240); do
		curl -sf -o "$dir/probe" "$url/subjects" && { rm -f "$dir/probe"; echo "$url"; return; }
		pid_of >/dev/null || die "it ended at once; see $dir/log"
		sleep 0.25
	done
	stop
	die "not up within a minute; see $dir/log"
}

stop() {
	local pid; pid=$(pid_of) || pid=
	if [ -n "$pid" ]; then
		kill "$pid"
		for _ in $(seq 40); do pid_of >/dev/null || break; sleep 0.25; done
		if pid_of >/dev/null; then kill -9 "$pid"; fi
	fi
	rm -f "$dir/pid"
	if [ -n "$wipe" ]; then rm -rf "$dir"; fi
}

command=${1:-}; shift || true
while [ $# -gt 0 ]; do
	case $1 in
	--dir) dir=$2; shift 2 ;;
	--port) port=$2; shift 2 ;;
	--wipe) wipe=1; shift ;;
	*) die "unknown option $1" ;;
	esac
done
mkdir -p "$dir" && dir=$(cd "$dir" && pwd)
case $command in
start) start ;;
stop) stop ;;
status) pid_of >/dev/null && cat "$dir/url" ;;
fetch) fetch ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
