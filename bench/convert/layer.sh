#!/bin/bash
# Makes the layer that writers of layers are compared on, and prints its path:
#
#   bench/convert/layer.sh [DIRECTORY]
#
# It is a plain tar of Debian packages of the kinds that images are made of:
# shared and static libraries, Python packages, sources, documents. It is kept in
# DIRECTORY, by default that of the other downloads. For the same versions of the
# packages it has the same bytes.
set -euo pipefail
packages=(
	python3-numpy python3-scipy python3-pandas python3-pandas-lib python3-matplotlib
	python3-sklearn python3-sklearn-lib python3-sympy python3-django
	libllvm14 golang-1.19-src vim-runtime git perl-modules-5.36
)
dir=${1:-${NINEPLY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nineply}/bench-layer}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
name=$(printf '%s\n' "${packages[@]}" | sha256sum | cut -c1-12)
layer=$dir/layer-$name.tar
exec 9>"$dir/lock"
flock 9
if [ ! -f "$layer" ]; then
	work=$(mktemp -d "$dir/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	mkdir "$work/debs" "$work/root"
	chmod 755 "$work" "$work/debs"
	(cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}") >&2
	for deb in "$work"/debs/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --no-same-owner
	done
	tar -c -C "$work/root" --format=gnu --sort=name --owner=0 --group=0 --numeric-owner \
		--mtime=@1700000000 --mode=u+rw,go=rX . >"$work/layer.tar"
	mv "$work/layer.tar" "$layer"
fi
echo "$layer"
