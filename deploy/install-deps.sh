#!/bin/bash
# Installs what building, the demo or the tests need on Debian 12, as root.
#
#   deploy/install-deps.sh build   the Go toolchain that go.mod asks for
#   deploy/install-deps.sh demo    ... and what `make demo` runs
#   deploy/install-deps.sh test    ... and what `make test` runs
#   deploy/install-deps.sh builders   ... and what `make e2e-builders` runs
#
# Debian's own packages are used wherever they are good enough. What is built or
# unpacked instead goes to a cache directory, $NINEPLY_CACHE or
# ~/.cache/nineply, and nothing else outside Debian's package system changes.
# Doing it again is cheap: what is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${NINEPLY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nineply}
lint_version=v2.15.0
containerd_version=v2.4.2
runc_version=v1.5.2
buildkit_version=v0.34.2
containerd1_version=v1.7.35

build_packages=(ca-certificates git make)
demo_packages=(containerd debootstrap docker-registry fuse3 mount runc skopeo tar)
test_packages=(
	attr busybox-static cpio curl diod gcc iproute2 jq kmod libc6-dev libcap2-bin passwd pigz podman procps
	qemu-system-x86 rootlesskit stargz-snapshotter strace uidmap umoci user-mode-linux zstd
)

say() { echo "== $*"; }

# install PACKAGE...: installs those that are missing.
install() {
	local missing=() package
	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing ${missing[*]}"
	apt_update
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

updated=
apt_update() {
	[ -n "$updated" ] || apt-get update -qq </dev/null
	updated=yes
}

# go_release: the Go release that go.mod asks for, such as 1.26.6.
go_release() { awk '$1 == "go" { print $2 }' go.mod; }

# have_go: is there a go command of at least that release, or one that fetches
# newer toolchains by itself?
have_go() {
	command -v go >/dev/null || return 1
	local have
	have=$(go env GOVERSION | sed 's/^go//; s/ .*//')
	printf '%s\n' "$(go_release)" "$have" | sort -V -C || go version >/dev/null 2>&1 && go list -m >/dev/null 2>&1
}

# install_go: the toolchain is itself a module of the Go module proxy. An old go
# command from Debian fetches and checks it like any other module; the copy in
# the cache is made executable and linked to.
install_go() {
	have_go && return 0
	local release module dir
	release=go$(go_release)
	dir=$cache/toolchain-$release
	if [ ! -x "$dir/bin/go" ]; then
		install golang-go
		say "fetching the Go toolchain $release"
		module=golang.org/toolchain@v0.0.1-$release.linux-$(dpkg --print-architecture)
		(cd / && GOFLAGS=-modcacherw GO111MODULE=on go mod download "$module")
		mkdir -p "$dir.tmp"
		cp -r "$(cd / && go env GOMODCACHE)/$module/." "$dir.tmp"
		chmod -R u+w "$dir.tmp"
		chmod +x "$dir.tmp"/bin/* "$dir.tmp"/pkg/tool/*/*
		rm -rf "$dir"
		mv "$dir.tmp" "$dir"
	fi
	ln -sfn "$dir/bin/go" /usr/local/bin/go
	ln -sfn "$dir/bin/gofmt" /usr/local/bin/gofmt
	hash -r
	go version
}

# go_tool DIR PACKAGE...: builds commands of other modules into $cache/DIR/bin.
go_tool() {
	local dir=$cache/$1
	shift
	[ ! -e "$dir/complete" ] || return 0
	say "building $*"
	mkdir -p "$dir"
	(cd / && GOBIN=$dir/bin GOFLAGS= CGO_ENABLED=${with_cgo:-0} go install "$@")
	touch "$dir/complete"
}

# go_module DIR MODULE PACKAGE...: builds commands of a module into $cache/DIR/bin,
# from a copy: go install refuses modules whose go.mod excludes or replaces others.
go_module() {
	local dir=$cache/$1 module=$2 source
	shift 2
	[ ! -e "$dir/complete" ] || return 0
	say "building $* of $module"
	rm -rf "$dir"
	mkdir -p "$dir/bin"
	source=$(cd / && GOFLAGS= go mod download -json "$module" | awk -F '"' '$2 == "Dir" { print $4 }')
	cp -r "$source" "$dir/source"
	chmod -R u+w "$dir/source"
	rm -rf "$dir/source/vendor"
	(cd "$dir/source" && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -o "$dir/bin/" "$@")
	rm -rf "$dir/source"
	touch "$dir/complete"
}

# buildkit: built inside a copy of its module, since "go install" refuses modules
# that exclude others.
buildkit() {
	local dir=$cache/buildkit-$buildkit_version module=github.com/moby/buildkit@$buildkit_version
	[ ! -e "$dir/complete" ] || return 0
	say "building $module"
	rm -rf "$dir"
	mkdir -p "$dir/bin"
	(cd / && GOFLAGS= go mod download "$module" && cp -r "$(go env GOMODCACHE)/$module" "$dir/source")
	chmod -R u+w "$dir/source"
	(cd "$dir/source" && GOFLAGS= CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$dir/bin/" ./cmd/buildkitd ./cmd/buildctl)
	rm -rf "$dir/source"
	touch "$dir/complete"
}

# guest_kernel: Debian's kernel for the emulated guests, unpacked into the cache
# instead of installed, since this machine is not to boot it.
guest_kernel() {
	local dir=$cache/guest-kernel package
	[ ! -e "$dir/complete" ] || return 0
	apt_update
	package=$(apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2 }')
	say "unpacking $package for guests"
	rm -rf "$dir"
	mkdir -p "$dir/deb"
	(cd "$dir/deb" && apt-get download -qq "$package" </dev/null)
	dpkg-deb -x "$dir"/deb/*.deb "$dir"
	rm -rf "$dir/deb"
	depmod -b "$dir" "$(ls "$dir/lib/modules")"
	touch "$dir/complete"
}

if [ "$(id -u)" != 0 ]; then
	echo "$0: installing packages needs root" >&2
	exit 1
fi
case ${1-} in
build)
	install "${build_packages[@]}"
	install_go
	;;
demo)
	install "${build_packages[@]}" "${demo_packages[@]}"
	install_go
	;;
builders)
	deploy/install-deps.sh test
	buildkit
	;;
test)
	install "${build_packages[@]}" "${demo_packages[@]}" "${test_packages[@]}"
	install_go
	guest_kernel
	go_tool "golangci-lint-$lint_version" "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$lint_version"
	go_tool "containerd-$containerd_version" \
		"github.com/containerd/containerd/v2/cmd/containerd@$containerd_version" \
		"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@$containerd_version" \
		"github.com/containerd/containerd/v2/cmd/ctr@$containerd_version"
	go_module "containerd-$containerd1_version" "github.com/containerd/containerd@$containerd1_version" \
		./cmd/containerd ./cmd/containerd-shim-runc-v2 ./cmd/ctr
	# Debian's does not know the mapped mounts of pods with a user namespace.
	with_cgo=1 go_tool "runc-$runc_version" "github.com/opencontainers/runc@$runc_version"
	;;
*)
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
