"""What tools/kata_vectors.py asks Kata's code: paths, records, texts of records, and sequences of calls."""

from __future__ import annotations

from typing import Any

#: Only Go's package has these; runtime-rs has no sandbox ids, and kata-ctl's remove is tested by nobody here.
GO_ONLY = ("remove", "record-sandbox", "find-sandbox", "write")

_POD = "/var/lib/kubelet/pods/1202b4c1-e87f-4f0d-8624-52500f3ab94b/volumes/kubernetes.io~csi"

PATHS = [
    "/a/b/c",
    "abcdddd",
    "../../etc/passwd",
    "/x?y>z~~~ÿ",
    "/with a space/and\nline",
    "/a/b/c/",
    "//a//b",
    "/日本/volume",
    f"{_POD}/pvc-2ad7b367-9fed-480d-a747-1ca5ce3809d4/mount",
    "/" + "n" * 188,
    "/" + "n" * 189,
    "/" + "é" * 94,
    "/" + "é" * 95,
]

_DISK = {"volume-type": "directvol", "device": "/dev/loop8", "fstype": "ext4"}

RECORDS: list[dict[str, Any]] = [
    _DISK,
    {**_DISK, "fstype": "xfs", "options": ["ro", "nouuid"]},
    {**_DISK, "options": ["noatime", 'context="system_u:object_r:x:s0:c1,c2"']},
    {**_DISK, "metadata": {"fsGroup": "1000", "fsGroupChangePolicy": "OnRootMismatch"}},
    {**_DISK, "metadata": {"fsGroup": "4294967295"}, "options": ["noatime", "discard"]},
    {**_DISK, "device": "/dev/mapper/vg-a--b<&>\u2028\u2029'\"\\\t\x7fé日"},
]

TEXTS: list[bytes] = [
    b'{"volume-type":"directvol","device":"/dev/loop8","fstype":"ext4"}',
    b' {\n"fstype" : "xfs" , "options":["ro"], "device":"/dev/loop8","volume-type":"directvol"}\n ',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"fsGroup":"1000"},"options":["a"]}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{},"options":[]}',
    b'{"volume-type":"block","device":"/d","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","unknown":{"a":[1,null]}}',
    b'{"volume-type":"directvol","device":"/\\u00e9\\ud83d\\ude00","fstype":"ext4"}',
    b'{"volume-type":"directvol","\\u0064evice":"\\/d\\u0000","fstype":"ext4"}',
    b'{"":0,"x":1,"x":{},"volume-type":"directvol","device":"/d","fstype":"ext4","y":[true,false,-0.5e-7]}\n',
    '{"volume-type":"directvol","device":"/é日","fstype":"ext4"}'.encode(),
    # What only one of them takes, or neither.
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":null}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":null}',
    b'{"volume-type":"directvol","device":null,"fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d"}',
    b'{"device":"/d","fstype":"ext4"}',
    b'{"volume-type":"directvol","fstype":"ext4"}',
    b"{}",
    b'{"Volume-Type":"directvol","DEVICE":"/d","FsType":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","Device":"/e","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","device":"/e","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","Metadata":{"fsGroup":"1000"}}',
    '{"volume-type":"directvol","device":"/d","fstype":"ext4","option\u017f":["ro"]}'.encode(),
    '{"volume-type":"directvol","device":"/d","\ufb06ype":"xfs","fstype":"ext4"}'.encode(),
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":["ro"],"options":[]}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"a":"1"},"metadata":{"b":"2"}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"a":"1","a":"2"}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"fsGroup":1000}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"fsGroup":null}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":"{}"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":[]}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":"ro"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":["ro",1]}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":[null]}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":{}}',
    b'{"volume-type":1,"device":"/d","fstype":"ext4"}',
    b'{"volume_type":"directvol","device":"/d","fs_type":"ext4"}',
    b'["directvol","/d","ext4",{},[]]',
    b'["directvol","/d","ext4"]',
    b"null",
    b"",
    b" ",
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4"',
    b'{"volume-type":"directvol","device":"/d","fst',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4"}x',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4"}{}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4",}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":NaN}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":1e999}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":123456789012345678901234567890}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":' + b"9" * 5000 + b"}",
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":01}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":1.}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":+1}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":-}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":-Infinity}',
    b"{'volume-type':'directvol','device':'/d','fstype':'ext4'}",
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4"}// a comment',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4"}\0',
    b'\f{"volume-type":"directvol","device":"/d","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"\\x2fd","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/\\u00e","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":true,"fstype":"ext4"}',
    b'{"volume-type":"directvol","device":["/d"],"fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"a":{"b":"c"}}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":[["ro"]]}',
    '{"volume-type":"directvol","device":"/d","fstype":"ext4"}'.encode("utf-16"),
    b'\xef\xbb\xbf{"volume-type":"directvol","device":"/d","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/\xff","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/\xed\xa0\x80","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":"\xff"}',
    b'{"volume-type":"directvol","device":"/\\ud800","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","options":["\\ud800"]}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"\\ud800":"1"}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","n":"\\ud800"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","\\ud800":1}',
    b'{"volume-type":"directvol","device":"/a\tb","fstype":"ext4"}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","deep":' + b"[" * 200 + b"]" * 200 + b"}",
    # Read by both; what the group means comes later.
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"fsGroup":"0"}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"fsGroup":"-1"}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"fsGroup":"wheel"}}',
    b'{"volume-type":"directvol","device":"/d","fstype":"ext4","metadata":{"fsGroup":"4294967296"}}',
    b'{"volume-type":"","device":"","fstype":""}',
]

_RECORD = '{"volume-type":"directvol","device":"/dev/loop8","fstype":"ext4"}'
_OTHER = '{"volume-type":"directvol","device":"/dev/loop9","fstype":"xfs"}'

STORIES: dict[str, list[dict[str, Any]]] = {
    "added, read": [
        {"do": "mounted", "path": "/v"},
        {"do": "read", "path": "/v"},
        {"do": "add", "path": "/v", "text": _RECORD},
        {"do": "mounted", "path": "/v"},
        {"do": "read", "path": "/v"},
    ],
    "added again, the other bytes stay": [
        {"do": "add", "path": "/v", "text": _RECORD},
        {"do": "add", "path": "/v", "text": _OTHER + " "},
    ],
    "a bad record leaves a folder": [
        {"do": "add", "path": "/v", "text": '{"metadata":{"fsGroup":1}}'},
        {"do": "mounted", "path": "/v"},
        {"do": "read", "path": "/v"},
        {"do": "add", "path": "/v", "text": _RECORD},
    ],
    "a bad record leaves the one before": [
        {"do": "add", "path": "/v", "text": _RECORD},
        {"do": "add", "path": "/v", "text": "{"},
    ],
    "removed": [
        {"do": "add", "path": "/v", "text": _RECORD},
        {"do": "record-sandbox", "path": "/v", "sandbox": "aa"},
        {"do": "add", "path": "/w", "text": _OTHER},
        {"do": "remove", "path": "/v"},
        {"do": "remove", "path": "/v"},
        {"do": "mounted", "path": "/v"},
    ],
    "an empty path removes everything": [
        {"do": "add", "path": "/v", "text": _RECORD},
        {"do": "remove", "path": ""},
    ],
    "an empty path has its record in the root": [{"do": "add", "path": "", "text": _RECORD}],
    "sandboxes": [
        {"do": "record-sandbox", "path": "/v", "sandbox": "aa"},
        {"do": "add", "path": "/v", "text": _RECORD},
        {"do": "find-sandbox", "path": "/v"},
        {"do": "record-sandbox", "path": "/v", "sandbox": "zz"},
        {"do": "find-sandbox", "path": "/v"},
        {"do": "record-sandbox", "path": "/v", "sandbox": "bb"},
        {"do": "find-sandbox", "path": "/v"},
        {"do": "add", "path": "/v", "text": _OTHER},
        {"do": "find-sandbox", "path": "/v"},
    ],
}
