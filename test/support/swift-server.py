#!/usr/bin/python3
"""OpenStack Swift with its S3 interface: swift-server.py FOLDER. test/support/other-s3.ts starts it.

Account, container, object and proxy server run in this one process, from Debian's package python3-swift. FOLDER gets the
configuration and the objects. The port of the proxy server is printed when it listens.
"""
import os
import sys
from array import array

import eventlet
from eventlet import wsgi

eventlet.monkey_patch()

FOLDER = os.path.abspath(sys.argv[1])


def write(name, text):
    path = os.path.join(FOLDER, name)
    with open(path, 'w') as file:
        file.write(text)
    return path


os.makedirs(os.path.join(FOLDER, 'node', 'disk'))
write('swift.conf', '[swift-hash]\nswift_hash_path_suffix = test\n[storage-policy:0]\nname = one\ndefault = yes\n')

from swift.common import utils  # noqa: E402

# other modules of Swift read swift.conf when they are imported
utils.set_swift_dir(FOLDER)
from swift.common.http_protocol import SwiftHttpProtocol  # noqa: E402
from swift.common.ring import RingData  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

DEFAULT = f'''[DEFAULT]
swift_dir = {FOLDER}
devices = {FOLDER}/node
mount_check = false
log_level = ERROR
'''
PROXY = f'''{DEFAULT}
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
# there is no memcached: Swift works without it
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
storage_domain = s3.test
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
'''


class Quiet:
    """The log of requests."""

    def write(self, text):
        pass


def serve(listener, conf):
    app = loadapp(conf, global_conf={'log_name': 'swift'})
    # the AWS SDK needs the header "ETag" as Swift writes it
    eventlet.spawn(wsgi.server, listener, app, Quiet(), custom_pool=eventlet.GreenPool(1000),
                   protocol=SwiftHttpProtocol, capitalize_response_headers=False)


for kind in ('account', 'container', 'object'):
    listener = eventlet.listen(('127.0.0.1', 0))
    port = listener.getsockname()[1]
    address = {'ip': '127.0.0.1', 'port': port, 'replication_ip': '127.0.0.1', 'replication_port': port}
    device = {'id': 0, 'region': 1, 'zone': 1, 'device': 'disk', 'weight': 1, 'meta': '', **address}
    # one replica, two partitions: all on this device
    RingData([array('H', [0, 0])], [device], 31).save(os.path.join(FOLDER, f'{kind}.ring.gz'))
    app = f'[app:main]\nuse = egg:swift#{kind}\n'
    serve(listener, write(f'{kind}.conf', f'{DEFAULT}{app}'))
listener = eventlet.listen(('127.0.0.1', 0))
serve(listener, write('proxy.conf', PROXY))
print(listener.getsockname()[1], flush=True)
eventlet.hubs.get_hub().switch()
