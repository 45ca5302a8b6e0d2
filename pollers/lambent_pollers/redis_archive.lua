-- Uploaded code: a zip is there if it is in the index, and then all of its pieces are.
--
-- KEYS: when each zip was last put (microseconds), of how many pieces each is, keys of pieces, the call's name.
-- ARGV: the time, what to do, for how long a call is remembered (none is), and its own. Each may be done twice.

local put, pieces = KEYS[1], KEYS[2]

local calls = {}

-- ARGV[4]: hash. Is it there? Then it is as if it had been put just now.
function calls.renew()
    if not redis.call('ZSCORE', put, ARGV[4]) then
        return 0
    end
    redis.call('ZADD', put, whole(now), ARGV[4])
    return 1
end

-- ARGV[4]: hash. KEYS[3..]: its parts as they were uploaded, then its pieces as they are to be called.
function calls.seal()
    local count = (#KEYS - 3) / 2
    if calls.renew() == 1 then
        for i = 3, 2 + count do
            redis.call('DEL', KEYS[i])
        end
        return 1
    end
    for i = 3, 2 + count do
        if redis.call('EXISTS', KEYS[i]) == 0 then
            return redis.error_reply('ERR the upload took so long that parts of it are gone: upload it again')
        end
    end
    for i = 3, 2 + count do
        redis.call('RENAME', KEYS[i], KEYS[i + count])
        redis.call('PERSIST', KEYS[i + count])
    end
    redis.call('HSET', pieces, ARGV[4], whole(count))
    redis.call('ZADD', put, whole(now), ARGV[4])
    return 1
end

-- Names, and microseconds since each was put.
function calls.ages()
    local found = redis.call('ZRANGE', put, 0, -1, 'WITHSCORES')
    for i = 2, #found, 2 do
        found[i] = whole(now - tonumber(found[i]))
    end
    return found
end

-- ARGV[4..]: hash, microseconds within which it stays. KEYS[3..]: its pieces.
function calls.remove()
    local at = redis.call('ZSCORE', put, ARGV[4])
    if not at or now - tonumber(at) < tonumber(ARGV[5]) then
        return 0
    end
    for i = 3, #KEYS - 1 do
        redis.call('DEL', KEYS[i])
    end
    redis.call('HDEL', pieces, ARGV[4])
    redis.call('ZREM', put, ARGV[4])
    return 1
end

return calls[ARGV[2]]()
