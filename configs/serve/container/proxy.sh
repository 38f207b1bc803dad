#!/bin/sh
# nginx, with the inference key that TorchServe makes at each start, and with the next one once it was started again; with
# new keys of clients and a new certificate, too. Until TorchServe has a key, and once it is being stopped, new requests
# are answered 503; those under way go on, as nginx keeps its old processes for them.
set -eu
umask 077
nginx=${PROXY:-nginx} conf=${PROXY_CONF:-/etc/cxr/nginx.conf}
keys=${KEY_FILE:-/run/cxr/key_file.json} made=${KEY_CONF:-/tmp/key.conf} secrets=${SECRETS:-/run/secrets}

header() {
    if [ -e "${keys%/*}/draining" ]; then
        echo "return 503;"
        return
    fi
    line=$(sed -n '/"inference"/,/}/s/.*"key": "\([A-Za-z0-9_=-]*\)".*/proxy_set_header Authorization "Bearer \1";/p' "$keys" 2>&-) || line=
    echo "${line:-return 503;}"
}

state() {
    header
    cksum "$secrets/clients" "$secrets/tls.crt" 2>&-
}

current=$(state)
header > "$made"
"$nginx" -c "$conf" -g 'daemon off;' &
proxy=$!
trap 'kill -QUIT $proxy; wait $proxy; exit 0' TERM INT QUIT
while kill -0 "$proxy" 2>&-; do
    found=$(state)
    if [ "$found" != "$current" ]; then
        current=$found
        header > "$made"
        kill -HUP "$proxy"
    fi
    sleep 1 &
    wait $!
done
wait "$proxy"
