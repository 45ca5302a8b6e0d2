-- A stream that other programs write, and perhaps trim: what is read of it and noted for a mapping, each call in one
-- step. KEYS[1] is the stream, KEYS[2] has the fences of our groups. ARGV[1] is the time, ARGV[2] what to do.

local CHUNK = 32 -- entries that are read before their sizes are known
local STEP = 1000

local function pairs_of(words)
    local found = {}
    for i = 1, #words, 2 do
        found[words[i]] = words[i + 1]
    end
    return found
end

-- How many entries there ever were and are, the last that was made and the last that was taken out of the middle, and
-- the first. Nothing of a stream that nobody has made yet.
local function info_of()
    local words = redis.pcall('XINFO', 'STREAM', KEYS[1])
    if words.err then
        if redis.call('EXISTS', KEYS[1]) == 1 then
            return nil, words
        end
        return {0, 0, '0-0', '0-0', ''}
    end
    local info = pairs_of(words)
    local first = info['first-entry']
    return {
        info['entries-added'] or 0, info.length, info['last-generated-id'], info['max-deleted-entry-id'] or '0-0',
        first and first[1] or '',
    }
end

local function group_of(name)
    for _, words in ipairs(name ~= '' and redis.pcall('XINFO', 'GROUPS', KEYS[1]) or {}) do
        local group = pairs_of(words)
        if group.name == name then
            return group
        end
    end
    return {}
end

local calls = {}

-- ARGV[3..]: an id behind which to read, how many entries, how many bytes, a group. Gives what is known of the stream,
-- whether nothing follows, the entries; and where the group is, and how many entries that are.
function calls.read()
    local info, failed = info_of()
    if failed then
        return failed
    end
    local from, left, room = '(' .. ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
    local told, size, tip = {}, 0, 0
    while left > #told do
        local chunk = #told > 0 and math.floor((room - size) * #told / math.max(size, 1)) or CHUNK
        chunk = math.max(math.min(chunk, left - #told, STEP), 1)
        local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', chunk)
        for _, entry in ipairs(entries) do
            for _, word in ipairs(entry[2]) do
                size = size + #word
            end
            if #told > 0 and size > room then
                left = #told
                break
            end
            told[#told + 1] = entry
            from = '(' .. entry[1]
        end
        if left > #told and #entries < chunk then
            tip = 1
            break
        end
    end
    local group = group_of(ARGV[6])
    return {info, tip, told, group['last-delivered-id'] or '', group['entries-read'] or -1}
end

-- ARGV[3]: an id, from which on the first entry is asked for. Gives what is known of the stream, and that one's id.
function calls.first()
    local info, failed = info_of()
    if failed then
        return failed
    end
    local entry = redis.call('XRANGE', KEYS[1], ARGV[3], '+', 'COUNT', 1)[1]
    return {info, entry and entry[1] or ''}
end

-- ARGV[3..]: a group, its lease's counter, how far it is, and how many entries that are (-1: nobody knows).
function calls.passed()
    local fence = tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or 0)
    if tonumber(ARGV[4]) < fence then
        return 0
    end
    if tonumber(ARGV[4]) > fence then
        redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
    end
    local words = {}
    if ARGV[6] ~= '-1' then
        words = {'ENTRIESREAD', ARGV[6]}
    elseif group_of(ARGV[3])['last-delivered-id'] == ARGV[5] then
        return 1
    end
    if redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[3], ARGV[5], unpack(words)).err then
        redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[3], ARGV[5], 'MKSTREAM', unpack(words))
    end
    return 1
end

return calls[ARGV[2]]()
