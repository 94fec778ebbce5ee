#!/bin/sh
# The main job on software tokens, as a story: back up, prove, wipe by a firmware
# update, restore, prove. Works in a temporary folder that it removes.
set -eu
umask 077
cd "$(dirname "$0")/.."
PATH="$PWD/bin:$PATH"
work=$(mktemp -d "${TMPDIR:-/tmp}/hsmbackup-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
cd "$work"
unset HSMBACKUP_CATALOG
export HSMBACKUP_CATALOG=catalog.db

step=0
say() {
	step=$((step + 1))
	printf '\n%s. %s\n' "$step" "$1"
}
# expect shows a command, as it would be typed, and what it prints; it has to end
# with that exit code. run expects 0, refused what a guard gives.
expect() {
	want=$1
	shift
	printf '   $'
	for word; do
		case $word in
		*[!A-Za-z0-9_./:=,-]* | '') printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	printf '\n'
	code=0
	"$@" >out 2>&1 || code=$?
	sed 's/^/     /' out
	if [ "$code" != "$want" ]; then
		echo "demo: exit code $code, expected was $want"
		exit 1
	fi
}
run() { expect 0 "$@"; }
refused() { expect 6 "$@"; }
# Throw-away secrets, from files: a person would type them.
digits() { od -An -N16 -tu1 /dev/urandom | tr -dc 0-9 | cut -c1-"$1"; }
digits 8 >PIN
digits 16 >SO
od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >PW
SECRETS='--pin file:PIN --so-pin file:SO --password file:PW'

echo "hsmbackup demo: the day the token with the SSH CA must be wiped."
echo "Software tokens play the hardware; everything else is the real thing."

say "A recovery key (DKEK): one share, in a password-protected file that sc-hsm-tool could read too."
run hsmbackup dkek create --out share1.pbe --password file:PW

say "A token, set up with that recovery key."
run hsmbackup soft new stick.tok --firmware 3.5 --serial SOFT0200001
run hsmbackup init --token soft:stick.tok --share share1.pbe --label ssh $SECRETS --confirm SOFT0200001

say "The keys that matter: an SSH CA and a login key. They are made on the token and never leave it in clear."
run hsmbackup soft keygen stick.tok --type rsa:4096 --label "SSH CA" --id 01 --pin file:PIN
run hsmbackup soft keygen stick.tok --type ec:prime256v1 --label "SSH HSM" --id 02 --pin file:PIN

say "Backup. Each key is exported wrapped, and the token itself proves that it comes back."
run hsmbackup backup --token soft:stick.tok --pin file:PIN
hsmbackup show latest --ssh >before
run hsmbackup check

say "A firmware update is due. The vendor refuses it while the token holds keys:"
refused hsmbackup soft update stick.tok --firmware 3.6 --serial SOFT0400001

say "So the token is wiped. hsmbackup allows that only because everything on it is proven to come back."
run hsmbackup init --token soft:stick.tok --share share1.pbe $SECRETS --confirm SOFT0200001
run hsmbackup soft update stick.tok --firmware 3.6 --serial SOFT0400001

say "The update left a token without keys, without PIN, with a new serial number and certificate."
run hsmbackup status --token soft:stick.tok

say "What a restore would do, and then the restore: initialise, load the share, every key under its reference, each one used."
run hsmbackup plan --from SOFT0200001 --token soft:stick.tok
run hsmbackup restore --from SOFT0200001 --token soft:stick.tok --init --share share1.pbe $SECRETS --confirm SOFT0400001

say "A first backup of the token under its new serial number, proven like the others."
run hsmbackup backup --token soft:stick.tok --pin file:PIN
hsmbackup show SOFT0400001 --ssh >after

say "The SSH public keys, whole. Servers and users that trusted them go on trusting them."
echo
echo "before the update:"
cat before
echo
echo "after the restore:"
cat after
echo
cmp before after
echo "The lines are the same. Demo done; its folder $work is removed."
