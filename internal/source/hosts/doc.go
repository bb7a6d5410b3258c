// Package hosts reads containerd's registry host configuration: a directory
// such as /etc/containerd/certs.d with one directory per registry, each holding
// a hosts.toml, or only certificates as docker lays them out.
//
// [Config.Lookup] turns the host part of a reference into the list of hosts to
// ask, in order: the mirrors as the file lists them, then the registry itself.
// Files are read at each lookup, so that a change needs no restart; a caller
// that looks up often keeps the result as long as [Config.Stamp] stays equal.
//
// A file that cannot be understood is an error, never ignored: ignoring it
// would send requests, and perhaps credentials, where the operator did not want
// them.
//
// It opens no connections and knows no credentials.
package hosts
