-- Leases and the fates of what was read under them, each call in one step.
--
-- A group's leases are a hash of shards, whose values are `counter expires number seek owner`, a line break and the
-- progress as JSON; `expires` is in microseconds, and `number` that of the owner's last checkpoint: an older one, which
-- comes late because a connection was slow, moves nothing back.
-- ARGV: the time, what to do, for how long the call is remembered, the owner, and its own.

local RANGES = 10000 -- of a shard's settled records that can still be asked for
local owner = ARGV[4]

local function parsed(text)
    if not text then
        return {counter = 0, expires = 0, number = 0, seek = 0, owner = '', progress = ''}
    end
    local counter, expires, number, seek, of, progress = string.match(
        text, '^(%d+) (%d+) (%d+) (%d+) ([^\n]*)\n(.*)$'
    )
    return {
        counter = tonumber(counter), expires = tonumber(expires), number = tonumber(number), seek = tonumber(seek),
        owner = of, progress = progress,
    }
end

local function keep(held, name, lease)
    redis.call('HSET', held, name, string.format(
        '%.0f %.0f %.0f %.0f %s\n%s', lease.counter, lease.expires, lease.number, lease.seek, lease.owner,
        lease.progress
    ))
end

local function free(lease)
    return lease.owner == '' or lease.expires <= now
end

local function tell(told, name, lease)
    local size = #told
    told[size + 1], told[size + 2], told[size + 3], told[size + 4], told[size + 5] =
        name, lease.owner, whole(lease.counter), lease.progress, free(lease) and 1 or 0
end

local calls = {}

-- KEYS: the group's members, its leases. ARGV[5..]: microseconds, names.
function calls.heartbeat()
    local members, held, till, told = KEYS[1], KEYS[2], now + ARGV[5], {}
    redis.call('ZREMRANGEBYSCORE', members, '-inf', whole(now))
    redis.call('ZADD', members, whole(till), owner)
    local names = words_from(6)
    for i, text in ipairs(gather('HMGET', held, names)) do
        local lease = parsed(text)
        if lease.owner == owner and not free(lease) then
            lease.expires = till
            keep(held, names[i], lease)
        end
        tell(told, names[i], lease)
    end
    return {redis.call('ZCARD', members), told}
end

-- KEYS: the leases of each one's group, the call. ARGV[5..]: microseconds; name, counter; and again. The answer has a
-- 1 for each that was got.
function calls.take()
    local call = KEYS[#KEYS]
    local got = redis.call('GET', call)
    if not got then
        local each = {}
        for i = 1, #KEYS - 1 do
            local held, name, counter = KEYS[i], ARGV[4 + 2 * i], tonumber(ARGV[5 + 2 * i])
            local lease = parsed(redis.call('HGET', held, name))
            each[i] = '0'
            if lease.counter == counter and free(lease) then
                lease.owner, lease.counter, lease.expires, lease.number = owner, counter + 1, now + ARGV[5], 0
                keep(held, name, lease)
                each[i] = '1'
            end
        end
        got = table.concat(each)
        redis.call('SET', call, got, 'PX', ARGV[3])
    end
    local told = {}
    for i = 1, #KEYS - 1 do
        if string.sub(got, i, i) == '1' then
            local name = ARGV[4 + 2 * i]
            tell(told, name, parsed(redis.call('HGET', KEYS[i], name)))
            told[#told] = i
        end
    end
    return told
end

-- KEYS: the leases of each one's group, the call. ARGV[5..]: name, counter; and again.
function calls.release()
    for i = 1, #KEYS - 1 do
        local held, name, counter = KEYS[i], ARGV[3 + 2 * i], tonumber(ARGV[4 + 2 * i])
        local lease = parsed(redis.call('HGET', held, name))
        if lease.owner == owner and lease.counter == counter then
            lease.owner = ''
            keep(held, name, lease)
        end
    end
end

-- Totals, and the latest ranges; neighbours of one fate and reason are one range.
local function settle(counts, ranges, name, settled)
    local text = redis.call('LINDEX', ranges, -1)
    local before = text and cjson.decode(text)
    for _, each in ipairs(settled) do
        local first, last, count, fate, reason = unpack(each)
        redis.call('HINCRBY', counts, name .. '\0' .. fate .. '\0' .. reason, count)
        if before and before[4] == fate and before[5] == reason then
            before[2], before[3] = last, before[3] + count
            redis.call('LSET', ranges, -1, cjson.encode(before))
        else
            before = each
            redis.call('RPUSH', ranges, cjson.encode(each))
        end
    end
    redis.call('LTRIM', ranges, -RANGES, -1)
end

local function forget_fates(counts, ranges, name)
    redis.call('DEL', ranges)
    for _, field in ipairs(redis.call('HKEYS', counts)) do
        if string.sub(field, 1, #name + 1) == name .. '\0' then
            redis.call('HDEL', counts, field)
        end
    end
end

-- KEYS: of each its group's leases and counts and its ranges; the call. ARGV[5..]: name, counter, number, seek,
-- progress, settled; and again. The answer has a 1 for each that is stored.
function calls.checkpoint()
    local answers = {}
    for i = 1, (#KEYS - 1) / 3 do
        local held, counts, ranges = unpack(KEYS, 3 * i - 2, 3 * i)
        local name, counter, number, seek, progress, settled = unpack(ARGV, 6 * i - 1, 6 * i + 4)
        local lease = parsed(redis.call('HGET', held, name))
        local mine = lease.owner == owner and lease.counter == tonumber(counter)
        if mine and lease.number < tonumber(number) then
            local before = lease.progress
            if before ~= '' and lease.seek ~= tonumber(seek) then
                forget_fates(counts, ranges, name)
            end
            lease.number, lease.seek, lease.progress = tonumber(number), tonumber(seek), progress
            keep(held, name, lease)
            if settled ~= '' and before ~= progress then
                settle(counts, ranges, name, cjson.decode(settled))
            end
        end
        answers[i] = mine and '1' or '0'
    end
    return table.concat(answers)
end

-- KEYS: the group's members, its leases: the owner holds nothing there any more.
function calls.leave()
    local members, held = KEYS[1], KEYS[2]
    redis.call('ZREM', members, owner)
    local found = redis.call('HGETALL', held)
    for i = 1, #found, 2 do
        local lease = parsed(found[i + 1])
        if lease.owner == owner then
            lease.owner = ''
            keep(held, found[i], lease)
        end
    end
end

-- KEYS: the group's leases, its counts.
function calls.look()
    local told, found = {}, redis.call('HGETALL', KEYS[1])
    for i = 1, #found, 2 do
        tell(told, found[i], parsed(found[i + 1]))
    end
    return {told, redis.call('HGETALL', KEYS[2])}
end

-- What engines were granted of shared limits. KEYS: a hash of limits. ARGV[5..]: their names. The answer begins with
-- the time.
function calls.blocks()
    return {whole(now), gather('HMGET', KEYS[1], words_from(5))}
end

-- KEYS: as before. ARGV[5..]: name, what it was (or nothing), what it shall be; and again. The answer has a 1 for each
-- that was still that, or is what it shall be already.
function calls.grant()
    local answers = {}
    for i = 5, #ARGV, 3 do
        local stored = redis.call('HGET', KEYS[1], ARGV[i]) or ''
        if stored == ARGV[i + 1] then
            redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
            stored = ARGV[i + 2]
        end
        answers[#answers + 1] = stored == ARGV[i + 2] and '1' or '0'
    end
    return table.concat(answers)
end

return calls[ARGV[2]]()
