-- Documents: each kind is a hash of names, whose values are a revision, a space and the body.
--
-- KEYS: the revision that was given last, the kind, when documents of the kind expire (microseconds), the revision of
-- each, the call's name.
-- ARGV: the time, what to do, for how long the call is remembered, and its own.

local last, kind, expiring, written, call = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

-- What expired is gone; nobody is told.
repeat
    local old = redis.call('ZRANGEBYSCORE', expiring, '-inf', whole(now), 'LIMIT', 0, STEP)
    each_part('HDEL', kind, old)
    each_part('ZREM', expiring, old)
    each_part('ZREM', written, old)
until #old < STEP

local calls = {}

local function answered(answer)
    redis.call('SET', call, answer, 'PX', ARGV[3])
    return answer
end

-- ARGV[4..]: name, body, the revision that it must have (or none), microseconds until it expires (or none). The answer
-- is its revision, 0: it has another one.
function calls.put()
    local told = redis.call('GET', call)
    if told then
        return tonumber(told)
    end
    local name, body, revision, microseconds = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
    if revision ~= '' then
        local stored = redis.call('HGET', kind, name)
        if (stored and string.match(stored, '^%d+') or '0') ~= revision then
            return answered(0)
        end
    end
    local given = redis.call('INCR', last)
    redis.call('HSET', kind, name, whole(given) .. ' ' .. body)
    redis.call('ZADD', written, whole(given), name)
    if microseconds then
        redis.call('ZADD', expiring, whole(now + microseconds), name)
    else
        redis.call('ZREM', expiring, name)
    end
    redis.call('PUBLISH', kind, '')
    return answered(given)
end

-- ARGV[4]: name.
function calls.delete()
    local told = redis.call('GET', call)
    if told then
        return tonumber(told)
    end
    local found = redis.call('HDEL', kind, ARGV[4])
    if found == 1 then
        redis.call('ZREM', expiring, ARGV[4])
        redis.call('ZREM', written, ARGV[4])
        redis.call('PUBLISH', kind, '')
    end
    return answered(found)
end

-- ARGV[4]: name.
function calls.get()
    return redis.call('HGET', kind, ARGV[4])
end

-- ARGV[4]: the revision above which documents are wanted. Names and documents; all of them if that one was never given
-- here, as when a failover lost it.
function calls.list()
    local after = tonumber(ARGV[4])
    if after == 0 or after > tonumber(redis.call('GET', last) or '0') then
        return redis.call('HGETALL', kind)
    end
    local names = redis.call('ZRANGEBYSCORE', written, '(' .. ARGV[4], '+inf')
    local found = {}
    for i, each in ipairs(gather('HMGET', kind, names)) do
        if each then
            found[#found + 1] = names[i]
            found[#found + 1] = each
        end
    end
    return found
end

return calls[ARGV[2]]()
