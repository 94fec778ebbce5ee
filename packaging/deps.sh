#!/bin/sh
# Installs what is missing to build (deps.sh build) or to build and test
# (deps.sh test) on Debian and Ubuntu. Says nothing when nothing is missing.
#
# The driver of the virtual reader and Prometheus' promtool are unpacked into
# the user's cache, never installed: as packages they make the machine's own
# pcscd, and a Prometheus, listen on the network.
set -eu

fail() {
	echo "deps: $*" >&2
	exit 1
}

case "${1:-test}" in
build | test) want=${1:-test} ;;
*) fail "usage: deps.sh build|test" ;;
esac

# Go comes first: Debian's own is too old, so apt is no help.
command -v go >/dev/null 2>&1 ||
	fail "Go is missing: install Go 1.26 or newer from https://go.dev/dl/"
version=$(go env GOVERSION)
minor=${version#go1.}
minor=${minor%%[!0-9]*}
case "$version" in
go1.*) [ "${minor:-0}" -ge 26 ] || fail "$version is too old: install Go 1.26 or newer from https://go.dev/dl/" ;;
devel*) ;;
*) fail "do not know $version: install Go 1.26 or newer from https://go.dev/dl/" ;;
esac

packages="gcc libc6-dev make pkg-config libpcsclite-dev"
if [ "$want" = test ]; then
	packages="$packages pcscd opensc opensc-pkcs11 openssh-client openssh-server hsmwiz iproute2 openssl poppler-utils systemd util-linux mount"
fi

missing=
for p in $packages; do
	# pkgconf stands in for pkg-config on newer releases.
	if [ "$p" = pkg-config ] && command -v pkg-config >/dev/null 2>&1; then
		continue
	fi
	case "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null || true)" in
	"install ok installed") ;;
	*) missing="$missing $p" ;;
	esac
done

cache=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/hsmbackup
# unpacked FOLDER FILE tells whether a package was unpacked that has the file.
unpacked() {
	find "$cache/$1" -name "$2" 2>/dev/null | grep -q .
}
unpack=
if [ "$want" = test ]; then
	unpacked vpcd libifdvpcd.so || unpack="$unpack vsmartcard-vpcd"
	unpacked prometheus promtool || unpack="$unpack prometheus"
fi

[ -n "$missing$unpack" ] || exit 0

command -v apt-get >/dev/null 2>&1 ||
	fail "missing:$missing$unpack; there is no apt-get here, so install them by hand"

as=
if [ "$(id -u)" != 0 ]; then
	as=sudo
	[ -z "$missing" ] || command -v sudo >/dev/null 2>&1 ||
		fail "missing:$missing; installing takes root: become root, or install sudo"
fi

# The output of apt is long and rarely of use: it is shown when it fails.
log=$(mktemp)
scratch=
trap 'rm -rf "$log" ${scratch:+"$scratch"}' EXIT
quietly() {
	"$@" >"$log" 2>&1 || {
		cat "$log" >&2
		fail "failed: $*"
	}
}

if [ -n "$missing" ]; then
	echo "deps: installing$missing"
	# Tests start an sshd of their own. The package would start one that listens
	# on the network: on a machine that had none, it must not.
	sshd=
	case "$missing " in
	*" openssh-server "*) [ ! -d /run/systemd/system ] || sshd="ssh.service ssh.socket" ;;
	esac
	for unit in $sshd; do
		quietly $as systemctl mask "$unit"
	done
	quietly $as apt-get update
	# shellcheck disable=SC2086 # a list of words
	quietly $as env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
	for unit in $sshd; do
		quietly $as systemctl unmask "$unit"
		$as systemctl disable "$unit" >/dev/null 2>&1 || true # older releases have no socket
	done
fi

# fetch PACKAGE FOLDER FILE unpacks a package into the cache.
fetch() {
	echo "deps: unpacking $1 into $cache/$2"
	scratch=$(mktemp -d)
	cd "$scratch"
	if ! apt-get download "$1" >"$log" 2>&1; then
		# A fresh machine has no lists yet.
		quietly $as apt-get update
		quietly apt-get download "$1"
	fi
	mkdir -p "$scratch/root" "$cache"
	quietly dpkg -x "$1"_*.deb "$scratch/root"
	# Moved as a whole: half of it would look like all of it.
	rm -rf "${cache:?}/$2" "$cache/$2.new"
	cp -R "$scratch/root" "$cache/$2.new"
	mv "$cache/$2.new" "$cache/$2"
	cd /
	rm -rf "$scratch"
	unpacked "$2" "$3" || fail "$1 holds no $3"
}
for p in $unpack; do
	case $p in
	vsmartcard-vpcd) fetch "$p" vpcd libifdvpcd.so ;;
	prometheus) fetch "$p" prometheus promtool ;;
	esac
done
