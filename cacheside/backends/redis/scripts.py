"""What the server does in one step each: the Lua scripts of the lease protocol. `wire.py` has the layout they work on.

A script sees the keys it is given and nothing else; it decides by the server's clock. Those of one key take it as
KEYS[1]; the others do the same to each of KEYS.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """Its text, and the name under which a server that has seen it knows it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


FILL = _script(
    "local h=redis.call('GETRANGE',KEYS[1],0,16) local s=string.sub(h,1,1) "
    "if (s=='L' or s=='V' or s=='S') and string.sub(h,2,17)==ARGV[1] then "
    "if ARGV[3]=='0' then redis.call('SET',KEYS[1],ARGV[2]) else redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) end "
    "return 1 end return 0"
)
# A lease is deleted; a claim is taken from the value, which stays.
RELEASE = _script(
    "local h=redis.call('GETRANGE',KEYS[1],0,29) if string.sub(h,2,17)~=ARGV[1] then return 0 end "
    "local s=string.sub(h,1,1) if s=='L' then return redis.call('DEL',KEYS[1]) end local none=string.rep('0',13) "
    "if (s=='V' or s=='S') and string.sub(h,18,30)~=none then redis.call('SETRANGE',KEYS[1],17,none) return 1 end "
    "return 0"
)
REPLACE = _script(
    "local t=redis.call('TYPE',KEYS[1]).ok local same "
    "if t=='string' then same=redis.call('GETRANGE',KEYS[1],0,42)==ARGV[1] else same=t=='none' or ARGV[1]=='!type' end "
    "if same then redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) return 1 end return 0"
)
# Redis 6.2 does not take NX together with GET. It writes first, so that a replica refuses it, and serves no old value.
LEASE = _script(
    "if redis.call('SET',KEYS[1],ARGV[1],'NX','PX',ARGV[2]) then return false end return redis.call('GET',KEYS[1])"
)
# ARGV: the token and the claim deadline that were seen, my token, and for how many ms. The header is written in place,
# so that the ttl stays.
CLAIM = _script(
    """
local h=redis.pcall('GETRANGE',KEYS[1],0,42)
if type(h)~='string' or #h~=43 then return 0 end
local s,token,deadline=string.sub(h,1,1),string.sub(h,2,17),tonumber(string.sub(h,18,30))
if (s~='V' and s~='S') or not deadline then return 0 end
if token==ARGV[2] then return 1 end
local t=redis.call('TIME') local now=t[1]*1000+math.floor(t[2]/1000)
if string.sub(h,2,30)~=ARGV[1] or deadline>now then return 0 end
redis.call('SETRANGE',KEYS[1],1,ARGV[2]..string.format('%013d',now+tonumber(ARGV[3])))
return 1"""
)
# What the scripts on guards share. `guard(k)`: the guard under k, or nothing. `live(v,me)`: its marks that are not over
# and not `me`; the last deadline of those; whether `me` was there. `put` writes a guard, `drop` makes a plain
# invalidation: a guard keeps its marks and is untouched no more, all else goes.
_GUARDS = """
local t=redis.call('TIME') local now=t[1]*1000+math.floor(t[2]/1000)
local function d(n) return string.format('%013d',n) end
local head='W'..string.rep('0',16)
local function guard(k)
  local w=redis.pcall('GETRANGE',k,0,16)
  if w==head then return redis.call('GET',k) end end
local function live(v,me)
  local out,last,mine='',0,false
  for i=44,#v,29 do
    local token,deadline=string.sub(v,i,i+15),tonumber(string.sub(v,i+16,i+28))
    if token==me then mine=true
    elseif deadline>now then out=out..string.sub(v,i,i+28) last=math.max(last,deadline) end end
  return out,last,mine end
local function put(k,untouched,marks,last)
  redis.call('SET',k,head..d(untouched)..d(0)..marks,'PX',last-now) end
local function drop(k)
  local v=guard(k)
  if v then
    local marks,last=live(v,'')
    if marks~='' then return put(k,0,marks,last) end end
  redis.call('UNLINK',k) end
"""
INVALIDATE = _script(_GUARDS + "for _,k in ipairs(KEYS) do drop(k) end return #KEYS")
# ARGV: grace in ms, and a token for each key. A server that is out of memory refuses to write, but drops as ever.
STALE = _script(
    _GUARDS
    + """
local grace=tonumber(ARGV[1])
for i,k in ipairs(KEYS) do
  local h,marked=redis.pcall('GETRANGE',k,0,42),false
  if type(h)=='string' and #h==43 and string.find(h,'^[VS]') then
    marked=type(redis.pcall('SETRANGE',k,0,'S'..ARGV[i+1]..d(0)))=='number' end
  if marked then
    local left=redis.call('PTTL',k)
    if left<0 or left>grace then redis.call('PEXPIRE',k,ARGV[1]) end
  else drop(k) end end
return #KEYS"""
)
# ARGV: token, hold in ms. The same bytes may arrive twice: the second time changes nothing but the deadline.
GUARD = _script(
    _GUARDS
    + """
for _,k in ipairs(KEYS) do
  local v,untouched,marks,last,mine=guard(k),1,'',0,false
  if v then
    marks,last,mine=live(v,ARGV[1])
    untouched=(mine and marks=='' and tonumber(string.sub(v,18,30))==1) and 1 or 0 end
  local deadline=now+tonumber(ARGV[2])
  put(k,untouched,marks..ARGV[1]..d(deadline),math.max(last,deadline)) end
return #KEYS"""
)
# ARGV: a token for each key. A mark that is not there was lost: then it is an invalidation.
UNGUARD = _script(
    _GUARDS
    + """
local lost=0
for i,k in ipairs(KEYS) do
  local v,mine=guard(k),false
  if v then
    local marks,last
    marks,last,mine=live(v,ARGV[i])
    if mine then
      if marks~='' then put(k,0,marks,last) else redis.call('UNLINK',k) end end end
  if not mine then drop(k) lost=lost+1 end end
return lost"""
)
# ARGV: token, entry, ttl in ms or 0. 72 bytes: a guard with one mark.
UPDATE = _script(
    _GUARDS
    + """
local v=guard(KEYS[1])
if v and #v==72 and tonumber(string.sub(v,18,30))==1 and string.sub(v,44,59)==ARGV[1] then
  if ARGV[3]=='0' then redis.call('SET',KEYS[1],ARGV[2]) else redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) end
  return 1 end
return 0"""
)
