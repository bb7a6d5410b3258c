#!/bin/bash
# Makes the tars beside it, with GNU tar and git. What is in them is known to
# tars_test.go.
set -euo pipefail
out=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root/etc"
cd "$work/root"
echo nineply >etc/hostname
truncate -s 1M holes
head -c 4096 /dev/zero | tr '\0' A | dd of=holes bs=4096 seek=16 conv=notrunc status=none
head -c 8192 /dev/zero | tr '\0' B | dd of=holes bs=4096 seek=128 conv=notrunc status=none
truncate -s 300000 nothing # a hole, whole
printf 'after' >last
export TZ=UTC
common=(-c -b 1 --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1700000000 --mode=go=rX,u+rw)
pax=("${common[@]}" --format=pax --pax-option=delete=atime,delete=ctime,exthdr.name=%d/x/%f)
tar "${common[@]}" --format=gnu -S -f "$out/sparse-gnu.tar" .
for version in 0.0 0.1 1.0; do
	tar "${pax[@]}" -S --sparse-version="$version" -f "$out/sparse-pax-$version.tar" .
done
rm holes nothing
tar "${pax[@]}" --pax-option=SCHILY.xattr.user.all=yes,comment=nobody,globexthdr.name=global -f "$out/global.tar" etc last
git init -q . && git add . && GIT_COMMITTER_DATE=@1700000000 git -c user.name=x -c user.email=x@example.com commit -q -m x --date=@1700000000
git archive --format=tar HEAD >"$out/git-archive.tar"
rm -rf .git
tar "${common[@]}" -b 20 --format=ustar -f "$out/blocked.tar" etc last
tar "${common[@]}" --format=gnu -V label -f "$out/volume.tar" etc last
tar "${common[@]}" --format=gnu -g "$work/snapshot" -f "$out/incremental.tar" etc last
